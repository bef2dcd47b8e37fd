//! NRRD headers, as ITK reads them.
//!
//! A space of anatomical directions, such as `left-posterior-superior`, gives coordinates their meaning. Scanner
//! coordinates and coordinates without a space are taken as left, posterior and superior, with a note; any other name
//! is rejected.
//!
//! DIFFERENCE: ITK knows the spaces RAS, LAS and LPS only. Here every space named in words is read, such as
//! `right-posterior-superior`. Initials other than those three are rejected, because in some programs they name the
//! sides where axes begin, not those where they end.

mod segments;
mod write;

use super::data::{Data, Encoding, Header, Start};
use super::dtype::{Dtype, Stored};
use super::header_text::{Lines, bad, lengths, need, numbers, quoted, three};
use super::note::HeaderNote;
use super::place;
use super::{Format, VolumeFault, VolumeInfo, stand_in};
use crate::geometry::Affine;
use segments::Segments;

pub(super) use write::encode;

const MAGIC: &str = "NRRD000";

/// Fields of the header that are used.
#[derive(Debug, Default)]
struct Fields {
    kind: Option<String>,
    dimension: Option<String>,
    sizes: Option<String>,
    space: Option<String>,
    space_dimension: Option<String>,
    directions: Option<String>,
    origin: Option<String>,
    spacings: Option<String>,
    space_units: Option<String>,
    units: Option<String>,
    endian: Option<String>,
    encoding: Option<String>,
    data_file: Option<String>,
    line_skip: Option<String>,
    byte_skip: Option<String>,
    kinds: Option<String>,
    axis_mins: Option<String>,
    segments: Segments,
}

impl Fields {
    /// Finds the entry of a field by its name in lower case without blanks, because Teem knows a spelling without them for
    /// every field, such as `spaceorigin`; `None` for fields that are not used.
    fn of(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "type" => &mut self.kind,
            "dimension" => &mut self.dimension,
            "sizes" => &mut self.sizes,
            "space" => &mut self.space,
            "spacedimension" => &mut self.space_dimension,
            "spacedirections" => &mut self.directions,
            "spaceorigin" => &mut self.origin,
            "spacings" => &mut self.spacings,
            "spaceunits" => &mut self.space_units,
            "units" => &mut self.units,
            "endian" => &mut self.endian,
            "encoding" => &mut self.encoding,
            "datafile" => &mut self.data_file,
            "lineskip" => &mut self.line_skip,
            "byteskip" => &mut self.byte_skip,
            "kinds" => &mut self.kinds,
            "axismins" => &mut self.axis_mins,
            _ => return None,
        })
    }

    /// Reads all lines up to the empty one; also returns the position after it.
    fn read(file: &[u8]) -> Result<(Self, usize), VolumeFault> {
        let not_nrrd = VolumeFault::NotFormat { format: "an NRRD file", magic: MAGIC };
        if !file.starts_with(MAGIC.as_bytes()) {
            return Err(stand_in::fault(file).unwrap_or(not_nrrd));
        }
        let mut lines = Lines::new(file);
        lines.next()?.ok_or(not_nrrd)?;
        let mut fields = Self::default();
        while let Some(line) = lines.next()? {
            if line.is_empty() {
                break;
            }
            if line.starts_with('#') {
                continue;
            }
            if let Some((key, value)) = line.split_once(":=").filter(|(key, _)| !key.contains(": ")) {
                fields.segments.add(key, value);
                continue;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(VolumeFault::HeaderLine { line: quoted(&line), expected: "`field: value`" });
            };
            if let Some(field) = fields.of(&name.to_lowercase().replace(char::is_whitespace, "")) {
                if field.is_some() {
                    return Err(VolumeFault::HeaderLine { line: quoted(&line), expected: "each field once" });
                }
                *field = Some(value.trim().to_owned());
            }
        }
        Ok((fields, lines.position()))
    }
}

/// Validates the header at the beginning of a file.
pub(super) fn parse(file: &[u8]) -> Result<Header, VolumeFault> {
    let (fields, end) = Fields::read(file)?;
    let sizes = need("sizes", fields.sizes.as_ref())?;
    let lengths = lengths("sizes", sizes)?;
    let dimension = need("dimension", fields.dimension.as_ref())?;
    if dimension.parse().ok() != Some(lengths.len()) {
        return Err(bad("dimension", dimension, format!("{}, the number of sizes", lengths.len())));
    }
    let rank = lengths.len();
    check_axes(&fields)?;
    let (shape, num_voxels) = place::shape(lengths)?;
    let dtype = dtype(need("type", fields.kind.as_ref())?)?;
    let encoding = encoding(need("encoding", fields.encoding.as_ref())?)?;
    let stored = Stored { dtype, is_big_endian: is_big_endian(&fields, dtype, encoding)? };
    let mut notes = Vec::new();
    let affine = affine(&fields, rank, &mut notes)?;
    let orientation = place::orientation(&affine)?;
    let data_bytes = num_voxels * dtype.len() as u64;
    let data = data(&fields, end, encoding)?;
    let format = Format::Nrrd;
    let names = fields.segments.by_value();
    let info = VolumeInfo { shape, affine, orientation, data_bytes, notes, format, names, stored, nifti: None };
    Ok(Header { info, data })
}

/// Checks that the first three axes are spatial, and that `axis mins` does not take the place of the origin.
fn check_axes(fields: &Fields) -> Result<(), VolumeFault> {
    let is_space = |kind: &str| ["domain", "space", "none", "???"].contains(&kind.to_lowercase().as_str());
    if let Some(kinds) = fields.kinds.as_deref().filter(|kinds| !kinds.split_whitespace().take(3).all(is_space)) {
        return Err(bad("kinds", kinds, "domain or space for the first three axes; colours and vectors are not read"));
    }
    match fields.axis_mins.as_deref() {
        Some(mins) if fields.origin.is_none() => {
            Err(bad("axis mins", mins, "a field `space origin` in their place; save the file with ITK or 3D Slicer"))
        }
        _ => Ok(()),
    }
}

fn dtype(name: &str) -> Result<Dtype, VolumeFault> {
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    Ok(match name.as_str() {
        "signed char" | "int8" | "int8_t" => Dtype::I8,
        "uchar" | "unsigned char" | "uint8" | "uint8_t" => Dtype::U8,
        "short" | "short int" | "signed short" | "signed short int" | "int16" | "int16_t" => Dtype::I16,
        "ushort" | "unsigned short" | "unsigned short int" | "uint16" | "uint16_t" => Dtype::U16,
        "int" | "signed int" | "int32" | "int32_t" => Dtype::I32,
        "uint" | "unsigned int" | "uint32" | "uint32_t" => Dtype::U32,
        "longlong"
        | "long long"
        | "long long int"
        | "signed long long"
        | "signed long long int"
        | "int64"
        | "int64_t" => Dtype::I64,
        "ulonglong" | "unsigned long long" | "unsigned long long int" | "uint64" | "uint64_t" => Dtype::U64,
        "float" => Dtype::F32,
        "double" => Dtype::F64,
        _ => return Err(bad("type", &name, "one number per voxel, of 8 to 64 bits")),
    })
}

fn encoding(name: &str) -> Result<Encoding, VolumeFault> {
    match name.to_lowercase().as_str() {
        "raw" => Ok(Encoding::Raw),
        "gz" | "gzip" => Ok(Encoding::Gzip),
        "txt" | "text" | "ascii" => Ok(Encoding::Text),
        _ => Err(bad("encoding", name, "raw, gzip or text; save the file with one of them")),
    }
}

fn is_big_endian(fields: &Fields, dtype: Dtype, encoding: Encoding) -> Result<bool, VolumeFault> {
    match fields.endian.as_deref().map(str::to_lowercase).as_deref() {
        Some("little") => Ok(false),
        Some("big") => Ok(true),
        Some(other) => Err(bad("endian", other, "little or big")),
        None if dtype.len() == 1 || encoding == Encoding::Text => Ok(false),
        None => Err(VolumeFault::NoField { field: "endian" }),
    }
}

fn data(fields: &Fields, end: usize, encoding: Encoding) -> Result<Data, VolumeFault> {
    let file = fields.data_file.clone();
    if let Some(name) = file.as_deref().filter(|name| name.starts_with("LIST") || name.contains('%')) {
        return Err(bad("data file", name, "one file; join the slices in one volume"));
    }
    let count = |field, value: Option<&String>| match value {
        None => Ok(0),
        Some(value) => value.parse::<i64>().ok().ok_or_else(|| bad(field, value, "a whole number")),
    };
    let line_skip = count("line skip", fields.line_skip.as_ref())?;
    let byte_skip = count("byte skip", fields.byte_skip.as_ref())?;
    let skip_lines = u64::try_from(line_skip);
    let skip_lines = skip_lines.ok().ok_or_else(|| bad("line skip", &line_skip.to_string(), "0 or more lines"))?;
    let first = if file.is_some() { 0 } else { end as u64 };
    let (start, skip_bytes) = match u64::try_from(byte_skip) {
        Ok(bytes) => (Start::At(first), bytes),
        Err(_) if byte_skip == -1 && encoding == Encoding::Raw => (Start::FromEnd(first), 0),
        Err(_) => return Err(bad("byte skip", &byte_skip.to_string(), "0 or more bytes, or -1 with encoding raw")),
    };
    let skip_lines = if matches!(start, Start::FromEnd(_)) { 0 } else { skip_lines };
    Ok(Data { file, start, skip_lines, encoding, skip_bytes })
}

/// Name of a space in lower case without separators; ITK accepts hyphens, blanks or none.
fn plain(space: &str) -> String {
    space.to_lowercase().replace(['-', ' '], "")
}

/// Axis of RAS along which a coordinate runs, and whether it runs in the opposite direction.
type Direction = (usize, bool);

/// Anatomical directions by name.
const DIRECTIONS: [(&str, Direction); 6] = [
    ("right", (0, false)),
    ("left", (0, true)),
    ("anterior", (1, false)),
    ("posterior", (1, true)),
    ("superior", (2, false)),
    ("inferior", (2, true)),
];

/// Directions assumed for a space without anatomical meaning: left, posterior and superior, as in ITK.
const ASSUMED: [Direction; 3] = [(0, true), (1, true), (2, false)];

/// Directions in which the three coordinates of a space increase; `None` for a space without anatomical meaning.
fn directions(space: &str) -> Result<Option<[Direction; 3]>, VolumeFault> {
    let plain = plain(space);
    let words = match plain.as_str() {
        "" | "scannerxyz" | "3drighthanded" | "3dlefthanded" => return Ok(None),
        "ras" => "rightanteriorsuperior",
        "las" => "leftanteriorsuperior",
        "lps" => "leftposteriorsuperior",
        words => words,
    };
    let expected = "RAS, LAS, LPS, or a direction of each axis in words, such as right-posterior-superior";
    directions_in_words(words).map(Some).ok_or_else(|| bad("space", space, expected))
}

/// Directions in a name such as `leftposteriorsuperior`; `None` unless there is one along each axis.
fn directions_in_words(words: &str) -> Option<[Direction; 3]> {
    let mut rest = words;
    let mut directions = [(0, false); 3];
    for direction in &mut directions {
        (rest, *direction) =
            DIRECTIONS.iter().find_map(|&(word, direction)| Some((rest.strip_prefix(word)?, direction)))?;
    }
    let has_axis = |wanted: usize| directions.iter().any(|&(axis, _)| axis == wanted);
    (rest.is_empty() && (0..3).all(has_axis)).then_some(directions)
}

/// Converts an affine to RAS from coordinates that increase in these directions.
fn in_ras(affine: Affine, directions: [Direction; 3]) -> Affine {
    let (mut ras, mut is_mirrored) = (affine, [false; 3]);
    for (row, (axis, runs_against)) in affine.into_iter().zip(directions) {
        ras[axis] = row;
        is_mirrored[axis] = runs_against;
    }
    place::mirrored(ras, is_mirrored)
}

fn affine(fields: &Fields, rank: usize, notes: &mut Vec<HeaderNote>) -> Result<Affine, VolumeFault> {
    if let Some(dimension) = fields.space_dimension.as_deref().filter(|dimension| *dimension != "3") {
        return Err(bad("space dimension", dimension, "3"));
    }
    let space = fields.space.as_deref().unwrap_or_default();
    if plain(space).ends_with("time") || ["rast", "last", "lpst"].contains(&plain(space).as_str()) {
        return Err(bad("space", space, "a space of three dimensions"));
    }
    let directions = directions(space)?.unwrap_or_else(|| {
        notes.push(HeaderNote::SpaceAssumed { space: space.to_owned() });
        ASSUMED
    });
    let columns = match (&fields.directions, &fields.spacings) {
        (Some(directions), _) => vectors("space directions", directions, rank)?,
        (None, Some(spacings)) => diagonal(spacing_numbers(spacings, rank)?),
        (None, None) => {
            notes.push(HeaderNote::NoSpacing);
            diagonal([1.0; 3])
        }
    };
    let origin = fields.origin.as_deref().map_or(Ok([0.0; 3]), |origin| vector("space origin", origin))?;
    let affine = in_ras(place::affine(columns, origin), directions);
    let units = fields.space_units.as_deref().unwrap_or_default();
    let named: Vec<&str> = units.split('"').map(str::trim).filter(|name| !name.is_empty()).collect();
    if named.iter().any(|name| *name != named[0] || !UNITS.contains(name)) {
        return Err(bad("space units", units, "mm, cm, m or um in quotes, the same for all axes"));
    }
    let of_axes = fields.units.as_deref().unwrap_or_default();
    let other = of_axes.split('"').map(str::trim).find(|name| !name.is_empty() && !MILLIMETRES.contains(name));
    if let Some(unit) = other.filter(|_| fields.space_units.is_none()) {
        notes.push(HeaderNote::UnitUnused { field: "units", unit: quoted(unit) });
    }
    Ok(match unit(units) {
        Some((unit, mm)) => place::in_mm(affine, unit, mm, notes),
        None => affine,
    })
}

fn diagonal(sides: [f64; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|axis| std::array::from_fn(|row| if row == axis { sides[axis] } else { 0.0 }))
}

/// Spacings of the first three axes; spacings of further axes, which have length 1, may be NaN.
fn spacing_numbers(value: &str, rank: usize) -> Result<[f64; 3], VolumeFault> {
    match numbers("spacings", value)?.as_slice() {
        all @ &[x, y, z, ..] if all.len() == rank && [x, y, z].iter().all(|side| *side > 0.0) => Ok([x, y, z]),
        _ => Err(bad("spacings", value, "a positive length for each axis")),
    }
}

/// Parses a vector such as `(1,2,3)`.
fn vector(field: &'static str, value: &str) -> Result<[f64; 3], VolumeFault> {
    let inner = value.trim().strip_prefix('(').and_then(|value| value.strip_suffix(')'));
    let inner = inner.ok_or_else(|| bad(field, value, "three numbers in parentheses"))?;
    three(field, &inner.replace(',', " "))
}

/// Parses three vectors such as `(1,0,0) (0,1,0) (0,0,1)`, with `none` for further axes.
fn vectors(field: &'static str, value: &str, rank: usize) -> Result<[[f64; 3]; 3], VolumeFault> {
    let mut parts = Vec::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let end = if rest.starts_with('(') { rest.find(')').map(|at| at + 1) } else { rest.find([' ', '\t', '(']) };
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(part);
        rest = after.trim_start();
    }
    match parts.as_slice() {
        all @ &[x, y, z, ..] if all.len() == rank => Ok([vector(field, x)?, vector(field, y)?, vector(field, z)?]),
        _ => Err(bad(field, value, "a vector for each axis")),
    }
}

/// Spellings of the unit that is expected where a unit is not used.
const MILLIMETRES: [&str; 5] = ["mm", "millimeter", "millimeters", "millimetre", "millimetres"];

/// Units of length that are supported.
const UNITS: [&str; 6] = ["mm", "cm", "m", "um", "µm", "μm"];

/// Unit of length other than mm, and its length in mm, if all axes have the same unit.
fn unit(units: &str) -> Option<(&'static str, f64)> {
    let mut names = units.split('"').map(str::trim).filter(|name| !name.is_empty());
    let first = names.next()?;
    if names.any(|name| name != first) {
        return None;
    }
    match first {
        "m" => Some(("metres", 1e3)),
        "cm" => Some(("centimetres", 10.0)),
        "um" | "µm" | "μm" => Some(("microns", 1e-3)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
