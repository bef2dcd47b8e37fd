//! Opens files that these programs wrote, which are regular files.
//!
//! [`File::open`] waits for ever for a writer if a FIFO has taken the place of a file, and a device may give bytes without
//! end. Here both are errors, as are sockets and folders. The check is made on the open file, so that nothing can be put in
//! its place in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// If it cannot be opened, or is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, OpenOptions::new().read(true))
}

/// Opens a regular file with `options`, whose custom flags are replaced.
///
/// # Errors
/// If it cannot be opened, or is not a regular file.
pub fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = open_at_once(path, options)?;
    let found = file.metadata()?.file_type();
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if found.is_file() { Ok(file) } else { Err(not_regular()) }
}

/// Reads a regular file from start to end.
///
/// # Errors
/// If it cannot be read, or is not a regular file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a regular file of UTF-8 text from start to end.
///
/// # Errors
/// If it cannot be read, is not a regular file, or is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Opens a file without waiting for the other end of a FIFO. The flag has no effect on a regular file that is open.
#[cfg(unix)]
fn open_at_once(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    match options.custom_flags(libc::O_NONBLOCK).open(path) {
        // Another process, such as a file server, holds a lease on the file; this waits until it gives the lease up.
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => options.custom_flags(0).open(path),
        // A socket, a device without its hardware, or a FIFO that is opened for writing.
        Err(err) if err.raw_os_error() == Some(libc::ENXIO) => Err(not_regular()),
        opened => opened,
    }
}

#[cfg(not(unix))]
fn open_at_once(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.open(path)
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a FIFO, socket or device in place of a regular file; move it away")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const REASON: &str = "a FIFO, socket or device in place of a regular file; move it away";

    fn make_fifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    fn check(path: &Path, expected: &str) {
        let text = |err: io::Error| err.to_string();
        assert_eq!(text(open(path).unwrap_err()), expected, "{}", path.display());
        assert_eq!(text(read(path).unwrap_err()), expected);
        assert_eq!(text(read_to_string(path).unwrap_err()), expected);
        for write in [OpenOptions::new().append(true), OpenOptions::new().read(true).write(true)] {
            assert_eq!(text(open_with(path, write).unwrap_err()), expected, "{}: {write:?}", path.display());
        }
    }

    #[test]
    fn files_are_read_whole_and_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&file).unwrap(), b"text");
        assert_eq!(read_to_string(&link).unwrap(), "text");
        assert_eq!(open(&dir.path().join("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&file, b"\xff").unwrap();
        assert_eq!(read_to_string(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn fifos_sockets_and_devices_are_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
        make_fifo(&fifo);
        let _listener = UnixListener::bind(&socket).unwrap();
        for path in [fifo.as_path(), &socket, Path::new("/dev/null"), Path::new("/dev/zero")] {
            check(path, REASON);
        }
        assert_eq!(open(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
