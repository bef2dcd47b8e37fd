//! Targets that read messages between the ranks of a training run.

#![allow(dead_code, clippy::cast_possible_truncation, reason = "files of the trainer, compiled here without Burn")]

use std::path::Path;

#[allow(clippy::many_single_char_names, reason = "allowed in the trainer")]
#[path = "../../../trainer/src/distributed/rendezvous/handshake.rs"]
mod handshake;
#[path = "../../../trainer/src/distributed/wire.rs"]
mod wire;

/// Reads frames between ranks until one is refused, the values in them, and the texts of a handshake.
pub(crate) fn ranks(_: &Path, bytes: &[u8]) {
    let mut rest = bytes;
    let mut num_frames = 0;
    while let Ok(frame) = wire::Frame::read(&mut rest) {
        num_frames += 1;
        let mut written = Vec::new();
        frame.write(&mut written).expect("a vector takes all");
        let end = bytes.len() - rest.len();
        assert!(bytes[..end].ends_with(&written), "frame {num_frames} is written otherwise than it was read");
        for count in 0..4 {
            if let Some(values) = wire::unpack(&frame.payload, count) {
                assert_eq!(wire::pack(&values), *frame.payload);
            }
            if let Some(floats) = wire::floats_of(&frame.payload, count) {
                assert_eq!(wire::bytes_of(&floats), *frame.payload);
            }
        }
    }
    let mut rest = bytes;
    while let Ok(text) = handshake::read_text(&mut rest) {
        assert!(u8::try_from(text.len()).is_ok(), "a text of {} bytes", text.len());
    }
}
