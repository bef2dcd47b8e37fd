//! File names of `NIfTI` volumes.

/// File name without `.nii` or `.nii.gz`, in upper or lower case; `None` for other files, and for hidden ones, such as
/// the `._x.nii.gz` that macOS leaves in archives.
#[must_use]
pub fn file_stem(name: &str) -> Option<&str> {
    if name.starts_with('.') {
        return None;
    }
    [".nii.gz", ".nii"].into_iter().find_map(|ending| {
        let at = name.len().checked_sub(ending.len())?;
        name.get(at..)?.eq_ignore_ascii_case(ending).then(|| &name[..at])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_recognised_in_any_case() {
        for (name, stem) in [
            ("a.nii", Some("a")),
            ("a.b.nii.gz", Some("a.b")),
            ("BIG_0000.NII.GZ", Some("BIG_0000")),
            ("é.Nii", Some("é")),
            ("a.nii.bz2", None),
            ("nii", None),
            ("é", None),
            (".nii.gz", None),
            ("._a.nii.gz", None),
        ] {
            assert_eq!(file_stem(name), stem, "{name}");
        }
    }
}
