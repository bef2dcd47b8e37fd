//! Passing of file descriptors over a Unix socket (`SCM_RIGHTS`), which the standard library does not support.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Buffer for the control message of one descriptor, aligned as its header requires.
type Control = [u64; 4];

/// Bytes of the control message's content.
const RIGHTS_LEN: libc::c_uint = 4;

const _: () = assert!(size_of::<RawFd>() == 4);

/// Sends a descriptor together with one byte.
///
/// # Errors
/// If the socket is closed or full.
#[expect(unsafe_code, reason = "system call with pointers")]
pub(crate) fn send(socket: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    let mut byte = [1u8];
    let mut control: Control = [0; 4];
    let mut piece = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let mut message = message(&mut piece, &mut control);
    // SAFETY: `message` describes `byte` and `control`, which outlive the calls. `control` is aligned for a header and
    // holds at least `CMSG_SPACE` of one descriptor, so the first header exists and its data has room for the number.
    let sent = unsafe {
        message.msg_controllen = libc::CMSG_SPACE(RIGHTS_LEN) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(RIGHTS_LEN) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(file.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives a descriptor together with one byte.
///
/// # Errors
/// If the socket is closed or brings no descriptor.
#[expect(unsafe_code, reason = "system call with pointers")]
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut byte = [0u8];
    let mut control: Control = [0; 4];
    let mut piece = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let mut message = message(&mut piece, &mut control);
    // SAFETY: `message` describes `byte` and `control`, which outlive the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system filled in `message`; a header that it reports lies within `control`, and the descriptor of a
    // whole `SCM_RIGHTS` message is open and has no other owner.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len as usize >= libc::CMSG_LEN(RIGHTS_LEN) as usize
        {
            return Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()));
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server sent no file"))
}

/// Creates a message of one piece, with a buffer for control data.
#[expect(unsafe_code, reason = "a struct of the system with hidden fields")]
fn message(piece: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: zeros are a valid message: no name, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_file_arrives_open() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"voxels").unwrap();
        send(ours.as_fd(), file.as_fd()).unwrap();
        let mut arrived = std::fs::File::from(receive(theirs.as_fd()).unwrap());
        arrived.rewind().unwrap();
        let mut text = String::new();
        arrived.read_to_string(&mut text).unwrap();
        assert_eq!(text, "voxels");
    }

    #[test]
    fn bytes_without_a_file_and_closed_sockets_are_errors() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"x").unwrap();
        assert!(receive(theirs.as_fd()).is_err());
        drop(ours);
        assert!(receive(theirs.as_fd()).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(send(theirs.as_fd(), file.as_fd()).is_err());
    }
}
