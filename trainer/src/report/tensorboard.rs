//! `RUN_DIR/tensorboard`: event files, from which TensorBoard shows scalars and pictures during a run.
//!
//! Each session of a run writes its own file, which starts with the first step of the session; TensorBoard then ignores
//! the records of earlier files from that step on, that is, the steps that a killed run repeats.
//!
//! No maintained crate writes these files: `tensorboard-rs` is declared inactive and depends on protobuf 2, `tboard` needs
//! `protoc` on the machine, `tfrecord` was last released in 2023 and compiles a TLS stack in its build script. Here `prost`
//! encodes the few messages needed, with the field numbers of TensorFlow's `event.proto` and `summary.proto`, `crc32c`
//! computes the checksums, and `Record` frames them. `tests/tensorboard/check_run.py` reads the files with TensorBoard.

use std::fs::{self, File};
use std::io::{self, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hiend_cache::durable;
use prost::Message;

use crate::journal::{StepRecord, ValidationRecord};

/// Event file of a session.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    /// Length of the complete records, bytes.
    len: u64,
    class_names: Vec<String>,
}

impl EventFile {
    /// Creates a file in `folder`, which is created if needed, for optimizer steps after `steps_done`. Classes without
    /// a name in `class_names` are called by their number.
    ///
    /// # Errors
    /// If the folder or file cannot be made.
    pub fn create(folder: &Path, steps_done: u64, class_names: &[String]) -> io::Result<Self> {
        durable::create_dir_all(folder)?;
        // TensorBoard reads files in name order: by time, then by number within a second.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let number = fs::read_dir(folder)?.count();
        let path = folder.join(format!("events.out.tfevents.{now:010}.{number:06}"));
        let mut events = Self { file: File::create_new(path)?, len: 0, class_names: class_names.to_vec() };
        events.write(0, What::FileVersion("brain.Event:2".into()))?;
        events.write(steps_done + 1, What::SessionLog(SessionLog { status: SessionStatus::Start.into() }))?;
        Ok(events)
    }

    /// Writes the scalars of an optimizer step.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn step(&mut self, record: &StepRecord) -> io::Result<()> {
        let mut values = vec![
            scalar("train/loss", record.loss),
            scalar("train/lr", record.lr),
            scalar("throughput/crops_per_sec", record.crops_per_sec),
            scalar("time_ms/wait", record.wait_ms),
            scalar("time_ms/compute", record.compute_ms),
            scalar("time_ms/upload", record.upload_ms),
        ];
        values.extend(record.grad_norm.map(|norm| scalar("train/grad_norm", norm)));
        self.write(record.step, What::Summary(Summary { value: values }))
    }

    /// Writes the scalars of a validation, leaving out values that were not measured, such as those of a class that
    /// occurs in no case.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn validation(&mut self, record: &ValidationRecord) -> io::Result<()> {
        let means = [("validation/mean_dice", record.mean_dice), ("validation/mean_fg_dice", record.mean_fg_dice)];
        let measured = means.into_iter().filter(|(_, value)| value.is_finite());
        let mut values: Vec<Value> = measured.map(|(tag, value)| scalar(tag, value)).collect();
        for (class, dice) in record.dice_per_class.iter().enumerate() {
            let name = self.class_names.get(class).cloned().unwrap_or_else(|| format!("class {class}"));
            values.extend(dice.map(|dice| scalar(&format!("dice/{name}"), dice)));
        }
        self.write(record.step, What::Summary(Summary { value: values }))
    }

    /// Copies a PNG file as the picture of a step.
    ///
    /// # Errors
    /// If the picture cannot be read or is not a PNG, or the event file cannot be written.
    pub fn picture(&mut self, step: u64, path: &Path) -> io::Result<()> {
        let image = Image::read(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        let value = Value { tag: "picture".into(), value: Some(AnyValue::Image(image)) };
        self.write(step, What::Summary(Summary { value: vec![value] }))
    }

    fn write(&mut self, step: u64, what: What) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = Event { wall_time: now.as_secs_f64(), step: step as i64, what: Some(what) };
        let record = Record(&event).to_bytes();
        if let Err(error) = self.file.write_all(&record) {
            // Records after an incomplete one could not be read.
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.len += record.len() as u64;
        Ok(())
    }
}

fn scalar(tag: &str, value: f64) -> Value {
    Value { tag: tag.into(), value: Some(AnyValue::SimpleValue(value as f32)) }
}

/// A framed message: length, checksum of the length, message, checksum of the message.
struct Record<'a>(&'a Event);

impl Record<'_> {
    fn to_bytes(&self) -> Vec<u8> {
        let message = self.0.encode_to_vec();
        let len = (message.len() as u64).to_le_bytes();
        [&len[..], &masked_crc(&len), &message, &masked_crc(&message)].concat()
    }
}

/// Computes the format's masked CRC32C: rotated and offset.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(enumeration = "SessionStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum SessionStatus {
    Unspecified = 0,
    Start = 1,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "AnyValue", tags = "2, 4")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnyValue {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// Number of channels.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

impl Image {
    fn read(path: &Path) -> io::Result<Self> {
        let header = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
        let info = header.info();
        Ok(Self {
            height: info.height as i32,
            width: info.width as i32,
            colorspace: info.color_type.samples() as i32,
            encoded_image_string: fs::read(path)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::{step_record, validation_record};

    /// Reads the events of a folder's files in the same order as TensorBoard.
    fn events(folder: &Path) -> Vec<Event> {
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let mut events = Vec::new();
        for path in paths {
            let bytes = fs::read(path).unwrap();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let len = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
                let event = Event::decode(&rest[12..12 + len]).unwrap();
                let record = Record(&event).to_bytes();
                assert_eq!(rest[..record.len()], record);
                rest = &rest[record.len()..];
                events.push(event);
            }
        }
        events
    }

    fn scalars(event: &Event) -> Vec<(String, f32)> {
        let Some(What::Summary(summary)) = &event.what else { panic!("{event:?}") };
        let scalar = |value: &Value| match value.value {
            Some(AnyValue::SimpleValue(scalar)) => (value.tag.clone(), scalar),
            _ => panic!("{value:?}"),
        };
        summary.value.iter().map(scalar).collect()
    }

    #[test]
    fn checksum_matches_a_known_record() {
        // TensorFlow's own first record has length 24, followed by this checksum in every file.
        assert_eq!(masked_crc(&24u64.to_le_bytes()), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn each_session_writes_a_file_with_its_first_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(dir.path(), 0, &[]).unwrap();
        file.step(&step_record(1, 0.75)).unwrap();
        let mut file = EventFile::create(dir.path(), 1, &[]).unwrap();
        file.step(&step_record(2, 0.5)).unwrap();
        let events = events(dir.path());
        let steps: Vec<i64> = events.iter().map(|event| event.step).collect();
        assert_eq!(steps, [0, 1, 1, 0, 2, 2]);
        assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".into())));
        assert_eq!(events[4].what, Some(What::SessionLog(SessionLog { status: 1 })));
        let scalars = scalars(&events[5]);
        assert!(scalars.contains(&("train/loss".into(), 0.5)) && scalars.contains(&("time_ms/wait".into(), 2.5)));
    }

    #[test]
    fn absent_class_has_no_value() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(dir.path(), 0, &["background".into()]).unwrap();
        file.validation(&validation_record(3, 0.5)).unwrap();
        let tags: Vec<String> = scalars(&events(dir.path())[2]).into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(tags, ["validation/mean_dice", "validation/mean_fg_dice", "dice/background", "dice/class 1"]);
    }

    #[test]
    fn unmeasured_mean_has_no_value() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(dir.path(), 0, &[]).unwrap();
        let record = ValidationRecord { mean_fg_dice: f64::NAN, ..validation_record(3, 0.5) };
        file.validation(&record).unwrap();
        let tags: Vec<String> = scalars(&events(dir.path())[2]).into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(tags, ["validation/mean_dice", "dice/class 0", "dice/class 1"]);
    }

    #[test]
    fn pictures_are_copied_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picture.png");
        hiend_loader::picture::Canvas::from_rgb(3, 2, &[7; 18]).write_png(&path).unwrap();
        let mut file = EventFile::create(&dir.path().join("tensorboard"), 0, &[]).unwrap();
        file.picture(4, &path).unwrap();
        let events = events(&dir.path().join("tensorboard"));
        let Some(What::Summary(Summary { value })) = &events[2].what else { panic!("{events:?}") };
        let Some(AnyValue::Image(image)) = &value[0].value else { panic!("{value:?}") };
        assert_eq!((image.width, image.height, image.colorspace), (3, 2, 3));
        assert_eq!(image.encoded_image_string, fs::read(&path).unwrap());
        fs::write(&path, "no picture").unwrap();
        let message = file.picture(5, &path).unwrap_err().to_string();
        assert!(message.contains("picture.png: "), "{message}");
    }
}
