//! `MetaImage` headers, as ITK reads them: positions are LPS millimetres, and the rows of `TransformMatrix` are the
//! directions of the array's axes.

mod write;

use std::collections::BTreeMap;

use super::data::{Data, Encoding, Header, Start};
use super::dtype::{Dtype, Stored};
use super::header_text::{Lines, bad, lengths, need, numbers, quoted};
use super::note::HeaderNote;
use super::place::{self, LPS};
use super::{Format, VolumeFault, VolumeInfo, stand_in};

pub(super) use write::encode;

/// Fields of the header that are used.
#[derive(Debug, Default)]
struct Fields {
    object_type: Option<String>,
    dims: Option<String>,
    sizes: Option<String>,
    is_binary: Option<String>,
    is_msb: Option<String>,
    is_compressed: Option<String>,
    matrix: Option<String>,
    offset: Option<String>,
    spacing: Option<String>,
    element_size: Option<String>,
    units: Option<String>,
    channels: Option<String>,
    kind: Option<String>,
    header_size: Option<String>,
    slope: Option<String>,
    intercept: Option<String>,
    data_file: Option<String>,
}

impl Fields {
    /// Finds the entry of a field; `None` for fields that are not used.
    fn of(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "ObjectType" => &mut self.object_type,
            "NDims" => &mut self.dims,
            "DimSize" => &mut self.sizes,
            "BinaryData" => &mut self.is_binary,
            "BinaryDataByteOrderMSB" | "ElementByteOrderMSB" => &mut self.is_msb,
            "CompressedData" => &mut self.is_compressed,
            "TransformMatrix" | "Rotation" | "Orientation" => &mut self.matrix,
            "Offset" | "Position" | "Origin" => &mut self.offset,
            "ElementSpacing" => &mut self.spacing,
            "ElementSize" => &mut self.element_size,
            "DistanceUnits" => &mut self.units,
            "ElementNumberOfChannels" => &mut self.channels,
            "ElementType" => &mut self.kind,
            "HeaderSize" => &mut self.header_size,
            "ElementToIntensityFunctionSlope" => &mut self.slope,
            "ElementToIntensityFunctionOffset" => &mut self.intercept,
            "ElementDataFile" => &mut self.data_file,
            _ => return None,
        })
    }

    /// Reads all lines up to `ElementDataFile`, the last one; also returns the position after it.
    fn read(file: &[u8]) -> Result<(Self, usize), VolumeFault> {
        if let Some(fault) = stand_in::fault(file) {
            return Err(fault);
        }
        let mut lines = Lines::new(file);
        let mut fields = Self::default();
        let other = VolumeFault::NotFormat { format: "a MetaImage file", magic: "ObjectType or NDims" };
        let mut is_first = true;
        while fields.data_file.is_none()
            && let Some(line) = lines.next()?
        {
            if line.trim().is_empty() {
                continue;
            }
            let parts = line.split_once('=');
            // Compressed and other binary files may have the sign anywhere.
            let is_name =
                |name: &str| name.trim().chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            if is_first && !parts.is_some_and(|(name, _)| is_name(name)) {
                return Err(other);
            }
            let Some((name, value)) = parts else {
                return Err(VolumeFault::HeaderLine { line: quoted(&line), expected: "`Name = value`" });
            };
            is_first = false;
            if let Some(field) = fields.of(name.trim()) {
                // MetaIO writes some fields under two names; a contradiction leaves the place unknown.
                if field.as_deref().is_some_and(|first| first != value.trim()) {
                    return Err(VolumeFault::HeaderLine { line: quoted(&line), expected: "each field once" });
                }
                *field = Some(value.trim().to_owned());
            }
        }
        if is_first { Err(other) } else { Ok((fields, lines.position())) }
    }
}

/// Validates the header at the beginning of a file.
pub(super) fn parse(file: &[u8]) -> Result<Header, VolumeFault> {
    let (fields, end) = Fields::read(file)?;
    if let Some(other) = fields.object_type.as_deref().filter(|kind| *kind != "Image") {
        return Err(bad("ObjectType", other, "Image"));
    }
    let lengths = lengths("DimSize", need("DimSize", fields.sizes.as_ref())?)?;
    let dims = need("NDims", fields.dims.as_ref())?;
    if dims.parse().ok() != Some(lengths.len()) {
        return Err(bad("NDims", dims, format!("{}, the number of sizes in DimSize", lengths.len())));
    }
    let rank = lengths.len();
    let (shape, num_voxels) = place::shape(lengths)?;
    if let Some(channels) = fields.channels.as_deref().filter(|channels| *channels != "1") {
        return Err(bad("ElementNumberOfChannels", channels, "1"));
    }
    check_no_scaling(&fields)?;
    let dtype = dtype(need("ElementType", fields.kind.as_ref())?)?;
    let is_big_endian = flag("BinaryDataByteOrderMSB", fields.is_msb.as_ref(), false)?;
    let stored = Stored { dtype, is_big_endian };
    let data_bytes = num_voxels * dtype.len() as u64;
    let mut notes = Vec::new();
    let affine = affine(&fields, rank, &mut notes)?;
    let orientation = place::orientation(&affine)?;
    let data = data(&fields, end)?;
    let format = Format::MetaImage;
    let info = VolumeInfo {
        shape,
        affine,
        orientation,
        data_bytes,
        notes,
        format,
        names: BTreeMap::new(),
        stored,
        nifti: None,
    };
    Ok(Header { info, data })
}

/// Rejects a scaling of the values, which some programs apply and others, such as ITK, do not.
fn check_no_scaling(fields: &Fields) -> Result<(), VolumeFault> {
    let unscaled = [
        ("ElementToIntensityFunctionSlope", &fields.slope, 1.0),
        ("ElementToIntensityFunctionOffset", &fields.intercept, 0.0),
    ];
    for (name, value, expected) in unscaled {
        let value = value.as_deref().filter(|value| value.parse().ok() != Some(expected));
        if let Some(value) = value {
            return Err(bad(name, value, format!("{expected}; store the scaled values")));
        }
    }
    Ok(())
}

fn dtype(name: &str) -> Result<Dtype, VolumeFault> {
    Ok(match name {
        "MET_CHAR" => Dtype::I8,
        "MET_UCHAR" => Dtype::U8,
        "MET_SHORT" => Dtype::I16,
        "MET_USHORT" => Dtype::U16,
        // 4 bytes on every machine, as MetaIO counts.
        "MET_INT" | "MET_LONG" => Dtype::I32,
        "MET_UINT" | "MET_ULONG" => Dtype::U32,
        "MET_LONG_LONG" => Dtype::I64,
        "MET_ULONG_LONG" => Dtype::U64,
        "MET_FLOAT" => Dtype::F32,
        "MET_DOUBLE" => Dtype::F64,
        _ => return Err(bad("ElementType", name, "one number per voxel, such as MET_SHORT")),
    })
}

fn flag(field: &'static str, value: Option<&String>, default: bool) -> Result<bool, VolumeFault> {
    match value.map(|value| value.to_lowercase()).as_deref() {
        None => Ok(default),
        Some("true" | "1" | "t") => Ok(true),
        Some("false" | "0" | "f") => Ok(false),
        Some(other) => Err(bad(field, other, "True or False")),
    }
}

fn data(fields: &Fields, end: usize) -> Result<Data, VolumeFault> {
    let name = need("ElementDataFile", fields.data_file.as_ref())?;
    if name.starts_with("LIST") || name.contains('%') {
        return Err(bad("ElementDataFile", name, "LOCAL or one file; join the slices in one volume"));
    }
    let is_local = ["LOCAL", "Local", "local"].contains(&name);
    let is_compressed = flag("CompressedData", fields.is_compressed.as_ref(), false)?;
    let encoding = match (flag("BinaryData", fields.is_binary.as_ref(), true)?, is_compressed) {
        (true, false) => Encoding::Raw,
        (true, true) => Encoding::Zlib,
        (false, false) => Encoding::Text,
        (false, true) => return Err(bad("CompressedData", "True", "False where BinaryData is False")),
    };
    let header_size = fields.header_size.as_deref().unwrap_or("0");
    let first = if is_local { end as u64 } else { 0 };
    let start = match header_size.parse::<i64>() {
        Ok(-1) if encoding == Encoding::Raw => Start::FromEnd(first),
        Ok(size) if size == 0 || !is_local => match u64::try_from(size) {
            Ok(size) => Start::At(first + size),
            Err(_) => return Err(bad("HeaderSize", header_size, "0 or more bytes, or -1 without compression")),
        },
        _ => return Err(bad("HeaderSize", header_size, "0, or a size with voxels in another file")),
    };
    let file = (!is_local).then(|| name.to_owned());
    Ok(Data { file, start, skip_lines: 0, encoding, skip_bytes: 0 })
}

fn affine(fields: &Fields, rank: usize, notes: &mut Vec<HeaderNote>) -> Result<crate::geometry::Affine, VolumeFault> {
    let vector = |field: &'static str, value: &str| {
        let numbers = numbers(field, value)?;
        match numbers.as_slice() {
            all @ &[x, y, z, ..] if all.len() == rank && [x, y, z].iter().all(|number| number.is_finite()) => {
                Ok([x, y, z])
            }
            _ => Err(bad(field, value, format!("{rank} numbers"))),
        }
    };
    let sides = match (&fields.spacing, &fields.element_size) {
        (Some(sides), _) | (None, Some(sides)) => {
            let [x, y, z] = vector("ElementSpacing", sides)?;
            if [x, y, z].iter().any(|side| *side <= 0.0) {
                return Err(bad("ElementSpacing", sides, "positive lengths"));
            }
            [x, y, z]
        }
        (None, None) => {
            notes.push(HeaderNote::NoSpacing);
            [1.0; 3]
        }
    };
    let directions: [[f64; 3]; 3] = match &fields.matrix {
        None => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        Some(matrix) => {
            let numbers = numbers("TransformMatrix", matrix)?;
            if numbers.len() != rank * rank || numbers.iter().any(|number| !number.is_finite()) {
                return Err(bad("TransformMatrix", matrix, format!("{} numbers", rank * rank)));
            }
            std::array::from_fn(|axis| std::array::from_fn(|row| numbers[axis * rank + row]))
        }
    };
    if let Some(unit) = fields.units.as_deref().filter(|unit| !["mm", "?", ""].contains(unit)) {
        notes.push(HeaderNote::UnitUnused { field: "DistanceUnits", unit: quoted(unit) });
    }
    let columns = std::array::from_fn(|axis| directions[axis].map(|part| part * sides[axis]));
    let origin = fields.offset.as_deref().map_or(Ok([0.0; 3]), |offset| vector("Offset", offset))?;
    Ok(place::mirrored(place::affine(columns, origin), LPS))
}

#[cfg(test)]
mod tests;
