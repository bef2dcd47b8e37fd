//! Decodes crops from encoded chunks. Each unit makes [`RUN`] neighbours along z of a crop: it finds the box of each
//! voxel, loads the box's row once, and extracts values by shifts. Units next to each other read payloads and write
//! rows next to each other.
//!
//! Each crop is decoded to its own size, that of the finished crop or of a box to be resampled, and is assigned a row
//! of cubes, as many as the largest crop needs. Sizes are arguments rather than constants of the kernel, so that boxes
//! of all sizes share one compilation; this costs four divisions per [`RUN`] voxels.
//!
//! A crop of 96³ reads some 0.6 MB of records and writes 3.5 MB of floats: 0.7 GB for 192 crops, 0.26 ms at the 3.0 TB/s of
//! an H100. The arithmetic is some 50 integer operations per voxel; no device has measured it.

#![allow(
    clippy::manual_div_ceil,
    clippy::too_many_lines,
    reason = "kernels have no such method; one kernel holds its row of a box in registers from voxel to voxel"
)]

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::dequantize::{PARAMS, units_of};
use super::launch::uninit;
use crate::ops::decode::layout::{field, flag};

/// Number of voxels per unit.
const RUN: u32 = 8;

/// Maximum number of units of a cube.
const UNITS: u32 = 256;

/// Reads field `number`, which is not negative, of the crop whose fields begin at `entry`.
#[cube]
fn count(facts: &[i32], entry: u32, #[comptime] number: u32) -> u32 {
    facts[(entry + number) as usize] as u32
}

/// Voxel of the volume from which index `at` of a crop's axis is read; `len` is the length of that axis.
#[cube]
fn along(at: u32, len: u32, flipped: bool) -> i32 {
    select(flipped, len - 1 - at, at) as i32
}

/// Reads header `number` of a record whose headers begin with word `headers`; returns width and minimum.
#[cube]
fn header(words: &[u32], headers: u32, number: u32, odd: u32, wide: bool) -> (u32, u32) {
    // Two-byte headers end where the payload begins, so an odd number of them begins with the second half of a word.
    let half = number + odd;
    let word = words[(headers + select(wide, number, half / 2)) as usize];
    let short = (word >> (16 * (half % 2))) & 0xffff;
    (select(wide, word & 0xff, short & 15), select(wide, (word >> 8) & 0xffff, short >> 4))
}

/// Extracts byte `lane` of the eight bytes in two words.
#[cube]
fn byte_of(low: u32, high: u32, lane: u32) -> u32 {
    select(lane < 4, low, high) >> (8 * (lane % 4))
}

#[cube(launch_unchecked)]
pub(super) fn decode_crops(words: &[u32], facts: &[i32], params: &[f32], y: &mut [f32]) {
    let crop = CUBE_POS_Y;
    let entry = crop * comptime!(field::COUNT);
    let size_x = count(facts, entry, comptime!(field::SIZE));
    let size_y = count(facts, entry, comptime!(field::SIZE + 1));
    let size_z = count(facts, entry, comptime!(field::SIZE + 2));
    let runs = (size_z + comptime!(RUN - 1)) / RUN;
    let unit = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    if unit < size_x * size_y * runs {
        let first = unit % runs * RUN;
        let row = unit / runs;
        let target = count(facts, entry, comptime!(field::TARGET)) + row * size_z;
        let flags = facts[(entry + comptime!(field::FLAGS)) as usize];
        let turned = flags & comptime!(flag::TURNED) != 0;
        let wide = flags & comptime!(flag::WIDE_HEADERS) != 0;
        let flipped_z = flags & comptime!(flag::FLIPPED_Z) != 0;
        // The crop's axes, then those of the volume.
        let first_axis = along(row / size_y, size_x, flags & comptime!(flag::FLIPPED_X) != 0);
        let second_axis = along(row % size_y, size_y, flags & comptime!(flag::FLIPPED_Y) != 0);
        let x = facts[(entry + comptime!(field::BOX_START)) as usize] + select(turned, second_axis, first_axis);
        let at_y = facts[(entry + comptime!(field::BOX_START + 1)) as usize] + select(turned, first_axis, second_axis);
        let start_z = facts[(entry + comptime!(field::BOX_START + 2)) as usize];
        let volume_x = count(facts, entry, comptime!(field::VOLUME));
        let volume_y = count(facts, entry, comptime!(field::VOLUME + 1));
        let volume_z = count(facts, entry, comptime!(field::VOLUME + 2));
        // A negative number is a large one without a sign.
        let x = x as u32;
        let at_y = at_y as u32;
        let row_inside = x < volume_x && at_y < volume_y;
        let chunk_x = count(facts, entry, comptime!(field::CHUNK));
        let chunk_y = count(facts, entry, comptime!(field::CHUNK + 1));
        let chunk_z = count(facts, entry, comptime!(field::CHUNK + 2));
        let number_x = x / chunk_x;
        let number_y = at_y / chunk_y;
        let in_x = x - number_x * chunk_x;
        let in_y = at_y - number_y * chunk_y;
        // Number of the row in its box of 2 x 2 rows.
        let box_row = in_x % 2 * 2 + in_y % 2;
        let column = (number_x - count(facts, entry, comptime!(field::FIRST)))
            * count(facts, entry, comptime!(field::MET))
            + number_y
            - count(facts, entry, comptime!(field::FIRST + 1));
        let sources =
            count(facts, entry, comptime!(field::SOURCES)) + column * count(facts, entry, comptime!(field::MET + 1));

        // The box whose row is loaded, by its first voxel along z; its minimum and width; and the words of the row.
        let mut loaded = 0xffff_ffffu32;
        let mut minimum = 0u32;
        let mut width = 0u32;
        let mut w0 = 0u32;
        let mut w1 = 0u32;
        let mut w2 = 0u32;
        let mut w3 = 0u32;
        let mut w4 = 0u32;
        let mut w5 = 0u32;
        let mut w6 = 0u32;
        for step in 0..RUN {
            let out_z = first + step;
            if out_z < size_z {
                let z = (start_z + along(out_z, size_z, flipped_z)) as u32;
                let mut value = count(facts, entry, comptime!(field::OUTSIDE));
                if row_inside && z < volume_z {
                    let number_z = z / chunk_z;
                    let in_z = z - number_z * chunk_z;
                    let lane = in_z % 8;
                    if z - lane != loaded {
                        loaded = z - lane;
                        let source =
                            facts[(sources + number_z - count(facts, entry, comptime!(field::FIRST + 2))) as usize];
                        if source < 0 {
                            minimum = (source & 0xffff) as u32;
                            width = 0u32;
                        } else {
                            let record = source as u32;
                            let rows_x = (min(chunk_x, volume_x - number_x * chunk_x) + 1) / 2;
                            let rows_y = (min(chunk_y, volume_y - number_y * chunk_y) + 1) / 2;
                            let boxes_z = (min(chunk_z, volume_z - number_z * chunk_z) + 7) / 8;
                            let rows = rows_x * rows_y;
                            let headers = record + 1 + rows;
                            let odd = rows * boxes_z % 2;
                            let box_rows = in_x / 2 * rows_y + in_y / 2;
                            let mut at = record + words[(record + 1 + box_rows) as usize];
                            for before in 0u32..in_z / 8 {
                                let (skipped, _lowest) = header(words, headers, box_rows * boxes_z + before, odd, wide);
                                at += skipped;
                            }
                            let (found, lowest) = header(words, headers, box_rows * boxes_z + in_z / 8, odd, wide);
                            width = found;
                            minimum = lowest;
                            if width >= 16 {
                                at += 4 * box_row;
                                w0 = words[at as usize];
                                w1 = words[(at + 1) as usize];
                                w2 = words[(at + 2) as usize];
                                w3 = words[(at + 3) as usize];
                            } else {
                                if width & 8 != 0 {
                                    w0 = words[(at + 2 * box_row) as usize];
                                    w1 = words[(at + 2 * box_row + 1) as usize];
                                    at += 8;
                                }
                                if width & 4 != 0 {
                                    let half = at + box_row % 2 * 2;
                                    w2 = words[half as usize] >> (box_row / 2 * 4);
                                    w3 = words[(half + 1) as usize] >> (box_row / 2 * 4);
                                    at += 4;
                                }
                                if width & 2 != 0 {
                                    w4 = words[at as usize] >> (2 * box_row);
                                    w5 = words[(at + 1) as usize] >> (2 * box_row);
                                    at += 2;
                                }
                                if width & 1 != 0 {
                                    w6 = words[at as usize] >> (8 * box_row);
                                }
                            }
                        }
                    }
                    let mut distance = 0u32;
                    if width >= 16 {
                        let pair = select(lane < 4, select(lane < 2, w0, w1), select(lane < 6, w2, w3));
                        distance = (pair >> (16 * (lane % 2))) & 0xffff;
                    } else {
                        let mut shift = 0u32;
                        if width & 8 != 0 {
                            distance = byte_of(w0, w1, lane) & 0xff;
                            shift = 8u32;
                        }
                        if width & 4 != 0 {
                            distance |= (byte_of(w2, w3, lane) & 15) << shift;
                            shift += 4;
                        }
                        if width & 2 != 0 {
                            distance |= (byte_of(w4, w5, lane) & 3) << shift;
                            shift += 2;
                        }
                        if width & 1 != 0 {
                            distance |= ((w6 >> lane) & 1) << shift;
                        }
                    }
                    value = (minimum + distance) & 0xffff;
                }
                y[(target + out_z) as usize] = units_of(value, params, crop);
            }
        }
    }
}

/// Decodes crops or boxes of `sizes` from `words`, using the tables of [`crate::ops::decode`]; returns all their voxels
/// in one tensor `[voxels]`.
pub(crate) fn decode(words: CubeTensor, facts: CubeTensor, params: CubeTensor, sizes: &[[usize; 3]]) -> CubeTensor {
    let (words, facts, params) = (into_contiguous(words), into_contiguous(facts), into_contiguous(params));
    assert_eq!((words.dtype, facts.dtype, params.dtype), (DType::U32, DType::I32, DType::F32), "words and tables");
    let crops = sizes.len();
    assert_eq!(params.meta.shape().num_elements(), PARAMS as usize * crops, "six parameters per crop");
    let voxels = sizes.iter().map(|size| size.iter().product::<usize>()).sum::<usize>();
    assert!(u32::try_from(voxels).is_ok(), "kernels count values in 32 bits; use micro-batches");
    let floats = uninit(&params, Shape::from([voxels]), DType::F32);
    let client = words.client.clone();
    let hardware = &client.properties().hardware;
    let width = hardware.max_units_per_cube.min(UNITS);
    let units = sizes.iter().map(|[x, y, z]| x * y * z.div_ceil(RUN as usize)).max().unwrap_or(0);
    let cubes = (units as u32).div_ceil(width);
    let (most, most_crops, _) = hardware.max_cube_count;
    assert!(cubes <= most && crops as u32 <= most_crops, "more crops, or larger ones, than a launch takes");
    // SAFETY: the loader checked each record when it wrote it: its widths add up to its length. The tables come from the
    // same crops, so that every voxel inside the volume has its chunk in them; `floats` holds a value for each voxel of
    // `sizes`, which the tables repeat.
    unsafe {
        decode_crops::launch_unchecked(
            &client,
            CubeCount::Static(cubes, crops as u32, 1),
            CubeDim::new_1d(width),
            words.into_buffer_arg(),
            facts.into_buffer_arg(),
            params.into_buffer_arg(),
            floats.clone().into_buffer_arg(),
        );
    }
    floats
}
