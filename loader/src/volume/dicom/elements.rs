//! The elements of a DICOM file that a volume needs. Lengths are untrusted: a value is never longer than the rest of
//! the file, nesting has a limit, and all other elements are skipped.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek};

use dicom_core::Tag;
use dicom_encoding::TransferSyntaxIndex as _;
use dicom_parser::dataset::LazyDataToken;
use dicom_parser::dataset::lazy_read::LazyDataSetReader;
use dicom_parser::{DynStatefulDecoder, StatefulDecode as _};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::DicomFault;

/// Offset of the magic number.
const PREAMBLE: usize = 128;
const MAGIC: &[u8; 4] = b"DICM";
/// Largest file meta group, in bytes.
const MAX_META: u32 = 1 << 16;
/// Largest value of an element other than pixel data, in bytes.
const MAX_VALUE: u32 = 1 << 12;
/// Largest depth of nested sequences and their items.
const MAX_DEPTH: usize = 64;
/// Encoding of every file meta group.
const EXPLICIT_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
const TRANSFER_SYNTAX_UID: Tag = Tag(0x0002, 0x0010);
const PIXEL_DATA: Tag = Tag(0x7fe0, 0x0010);

/// Compression of the pixel data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Jpeg,
    Rle,
}

/// Encoding of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    pub uid: String,
    pub name: String,
    pub is_big_endian: bool,
    /// Compression; `None` for a transfer syntax without a decoder.
    pub compression: Option<Compression>,
}

impl Syntax {
    fn of(uid: &str) -> Self {
        let compression = match uid {
            "1.2.840.10008.1.2" | "1.2.840.10008.1.2.1" | "1.2.840.10008.1.2.2" => Some(Compression::None),
            "1.2.840.10008.1.2.4.50"
            | "1.2.840.10008.1.2.4.51"
            | "1.2.840.10008.1.2.4.57"
            | "1.2.840.10008.1.2.4.70" => Some(Compression::Jpeg),
            "1.2.840.10008.1.2.5" => Some(Compression::Rle),
            _ => None,
        };
        let name = TransferSyntaxRegistry.get(uid).map_or("unknown", |syntax| syntax.name());
        Self { uid: uid.to_owned(), name: name.to_owned(), is_big_endian: uid == "1.2.840.10008.1.2.2", compression }
    }

    pub(super) fn unsupported(&self) -> DicomFault {
        DicomFault::TransferSyntax { name: self.name.clone(), uid: self.uid.clone() }
    }
}

/// Pixel data as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    Native(Vec<u8>),
    /// All fragments of an image, joined.
    Encapsulated(Vec<u8>),
}

/// Values of elements in the root of a file.
#[derive(Clone, Debug)]
pub(super) struct Elements {
    pub syntax: Syntax,
    values: BTreeMap<Tag, Vec<u8>>,
    pub pixels: Option<Pixels>,
}

impl Elements {
    /// Reads the elements `wanted`, and the pixel data if `with_pixels` is set. A value longer than any of these
    /// elements should have counts as absent; of a sequence, only its presence is kept.
    pub(super) fn read(mut file: impl Read + Seek, wanted: &[Tag], with_pixels: bool) -> Result<Self, DicomFault> {
        let syntax = Syntax::of(&meta(&mut file)?);
        let known = TransferSyntaxRegistry.get(&syntax.uid);
        // A deflated file cannot be searched without inflating all of it.
        let known =
            known.filter(|known| known.uid() != "1.2.840.10008.1.2.1.99").ok_or_else(|| syntax.unsupported())?;
        let reader = LazyDataSetReader::new_with_ts(file, known).map_err(|err| DicomFault::damaged(&err))?;
        let mut elements = Self { syntax, values: BTreeMap::new(), pixels: None };
        elements.collect(reader, wanted, with_pixels)?;
        Ok(elements)
    }

    fn collect<R: Read + Seek>(
        &mut self,
        mut reader: LazyDataSetReader<DynStatefulDecoder<R>>,
        wanted: &[Tag],
        with_pixels: bool,
    ) -> Result<(), DicomFault> {
        let damaged = |message: &str| DicomFault::Damaged { message: message.to_owned() };
        // Sequences and their items around the current element: true for an item.
        let mut around: Vec<bool> = Vec::new();
        // The sequence in the root, before its first item.
        let mut sequence = None;
        let mut encapsulated: Option<(usize, Vec<u8>)> = None;
        while let Some(token) = reader.advance() {
            match token.map_err(|err| DicomFault::damaged(&err))? {
                LazyDataToken::ElementHeader(header) => {
                    if around.is_empty() && header.tag >= PIXEL_DATA && !(with_pixels && header.tag == PIXEL_DATA) {
                        break;
                    }
                }
                LazyDataToken::SequenceStart { tag, .. } => {
                    if around.is_empty() {
                        sequence = Some(tag);
                    }
                    around.push(false);
                }
                LazyDataToken::PixelSequenceStart => {
                    sequence = None;
                    if around.is_empty() {
                        if !with_pixels {
                            break;
                        }
                        encapsulated = Some((0, Vec::new()));
                    }
                    around.push(false);
                }
                LazyDataToken::ItemStart { .. } => {
                    if around.last() != Some(&false) {
                        return Err(damaged("an item outside of a sequence"));
                    }
                    if let Some(tag) = sequence.take().filter(|tag| wanted.contains(tag)) {
                        self.values.insert(tag, Vec::new());
                    }
                    around.push(true);
                    if let Some((number, _)) = encapsulated.as_mut().filter(|_| around.len() == 2) {
                        *number += 1;
                    }
                }
                LazyDataToken::ItemEnd => {
                    if around.pop() != Some(true) {
                        return Err(damaged("the end of an item that did not begin"));
                    }
                }
                LazyDataToken::SequenceEnd => {
                    if around.pop() != Some(false) {
                        return Err(damaged("the end of a sequence that did not begin"));
                    }
                    if around.is_empty()
                        && let Some((_, data)) = encapsulated.take()
                    {
                        self.pixels = Some(Pixels::Encapsulated(data));
                        break;
                    }
                }
                LazyDataToken::LazyItemValue { len, decoder } => match &mut encapsulated {
                    // The first item is the table of offsets.
                    Some((number, data)) if *number > 1 => {
                        let before = data.len();
                        decoder.read_to(len, &mut *data).map_err(|err| DicomFault::damaged(&err))?;
                        if data.len() - before != len as usize {
                            return Err(damaged("the file ends in the middle of its pixel data"));
                        }
                    }
                    _ => decoder.skip_bytes(len).map_err(|err| DicomFault::damaged(&err))?,
                },
                LazyDataToken::LazyValue { header, decoder } => {
                    let is_pixels = header.tag == PIXEL_DATA && around.is_empty();
                    let is_wanted = around.is_empty() && wanted.contains(&header.tag) && header.len.0 <= MAX_VALUE;
                    if !is_wanted && !is_pixels {
                        decoder.skip_bytes(header.len.0).map_err(|err| DicomFault::damaged(&err))?;
                        continue;
                    }
                    let mut bytes = Vec::new();
                    decoder.read_to(header.len.0, &mut bytes).map_err(|err| DicomFault::damaged(&err))?;
                    if bytes.len() != header.len.0 as usize {
                        return Err(damaged("the file ends in the middle of an element"));
                    }
                    if is_pixels {
                        self.pixels = Some(Pixels::Native(bytes));
                        break;
                    }
                    self.values.insert(header.tag, bytes);
                }
                _ => return Err(damaged("an unknown kind of element")),
            }
            if around.len() > MAX_DEPTH {
                return Err(damaged("sequences nested too deeply"));
            }
        }
        if encapsulated.is_some() {
            return Err(damaged("the file ends in the middle of its pixel data"));
        }
        Ok(())
    }

    /// Returns true if the file has the element, or a sequence with an item.
    pub(super) fn has(&self, tag: Tag) -> bool {
        self.values.contains_key(&tag)
    }

    /// Parts of a text value, without padding; `None` for an absent or empty value.
    pub(super) fn text(&self, tag: Tag) -> Option<Vec<String>> {
        let text = String::from_utf8_lossy(self.values.get(&tag)?);
        let text = text.trim_matches(['\0', ' ']);
        (!text.is_empty()).then(|| text.split('\\').map(|part| part.trim_matches(['\0', ' ']).to_owned()).collect())
    }

    /// First part of a text value.
    pub(super) fn first(&self, tag: Tag) -> Option<String> {
        self.text(tag)?.into_iter().next().filter(|part| !part.is_empty())
    }

    /// Numbers in a text value; `None` if it is absent or not a list of finite numbers.
    pub(super) fn decimals(&self, tag: Tag) -> Option<Vec<f64>> {
        let text = self.text(tag)?;
        text.iter().map(|part| part.parse().ok().filter(|number: &f64| number.is_finite())).collect()
    }

    /// Unsigned 16-bit value.
    pub(super) fn unsigned(&self, tag: Tag) -> Option<u16> {
        let bytes = *self.values.get(&tag)?.first_chunk::<2>()?;
        Some(if self.syntax.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }
}

/// Reads the preamble and the file meta group; returns the transfer syntax.
fn meta(file: &mut impl Read) -> Result<String, DicomFault> {
    let mut head = [0; PREAMBLE + 16];
    let read = |err: std::io::Error| match err.kind() {
        std::io::ErrorKind::UnexpectedEof => DicomFault::NotDicom,
        _ => DicomFault::damaged(&err),
    };
    file.read_exact(&mut head).map_err(read)?;
    if &head[PREAMBLE..PREAMBLE + 4] != MAGIC {
        return Err(DicomFault::NotDicom);
    }
    let damaged = |message: &str| DicomFault::Damaged { message: message.to_owned() };
    let [.., a, b, c, d] = head;
    let len = u32::from_le_bytes([a, b, c, d]);
    // (0002,0000), UL, 4 bytes.
    if head[PREAMBLE + 4..PREAMBLE + 12] != [2, 0, 0, 0, b'U', b'L', 4, 0] || len > MAX_META {
        return Err(damaged("no usable file meta group"));
    }
    let mut group = Vec::new();
    file.take(len.into()).read_to_end(&mut group).map_err(|err| DicomFault::damaged(&err))?;
    let explicit = TransferSyntaxRegistry.get(EXPLICIT_LITTLE_ENDIAN).ok_or_else(|| damaged("no transfer syntax"))?;
    let reader =
        LazyDataSetReader::new_with_ts(Cursor::new(group), explicit).map_err(|err| DicomFault::damaged(&err))?;
    let mut meta = Elements { syntax: Syntax::of(""), values: BTreeMap::new(), pixels: None };
    meta.collect(reader, &[TRANSFER_SYNTAX_UID], false)?;
    meta.first(TRANSFER_SYNTAX_UID).ok_or_else(|| damaged("no transfer syntax"))
}
