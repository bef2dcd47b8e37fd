//! Calls of this project's programs in shell scripts, comments that show commands, and systemd units.

/// A call of a program, with its words.
#[derive(Debug)]
pub(super) struct Call {
    /// Name of the program.
    pub program: String,
    /// Words after it.
    pub words: Vec<String>,
}

impl Call {
    /// Long flags without their dashes and values.
    pub(super) fn flags(&self) -> impl Iterator<Item = &str> {
        let flags = self.words.iter().filter_map(|word| word.strip_prefix("--")).filter(|flag| !flag.is_empty());
        flags.map(|flag| flag.split('=').next().unwrap_or(flag))
    }
}

/// Finds all calls in a text, whose lines may be continued by a backslash. A call ends with its line, or at a shell's
/// separator. Names count only if flags follow, because prose mentions programs as well.
pub(super) fn calls(text: &str) -> Vec<Call> {
    let text = text.replace("\\\n", " ");
    let mut calls: Vec<Call> = Vec::new();
    for line in text.lines() {
        let mut call: Option<Call> = None;
        for word in line.split_whitespace() {
            let name = word.trim_matches(['`', '"', '(', ')', ',', '.']).rsplit(['/', '=']).next().unwrap_or_default();
            if ["hiend-shard", "hiend-serve", "hiend-train"].contains(&name) {
                calls.extend(call.take());
                call = Some(Call { program: name.to_owned(), words: vec![] });
            } else if ["|", "||", "&&", ";", "&", "#"].contains(&word) {
                calls.extend(call.take());
            } else if let Some(call) = &mut call {
                let ends = word.ends_with(['`', ';']);
                call.words.push(word.trim_end_matches(['`', ';', ',', '.']).to_owned());
                if ends {
                    break;
                }
            }
        }
        calls.extend(call);
    }
    calls.retain(|call| call.flags().next().is_some());
    calls
}

#[test]
fn calls_are_found_in_scripts_and_comments() {
    let text = "srun hiend-train \"$@\" --resume=auto \\\n  --display lines &\n# `hiend-shard verify CACHE`; hiend-serve\n\
                ExecStart=/usr/bin/hiend-serve --shards a --listen b\n";
    let found = calls(text);
    let flags = |call: &Call| call.flags().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].program.as_str(), flags(&found[0])), ("hiend-train", vec!["resume".into(), "display".into()]));
    assert_eq!((found[1].program.as_str(), flags(&found[1])), ("hiend-serve", vec!["shards".into(), "listen".into()]));
}
