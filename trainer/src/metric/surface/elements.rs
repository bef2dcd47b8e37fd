//! Surface elements between voxels, as marching cubes places them, with their areas.
//!
//! An element is placed at each corner of the voxel grid whose 2 x 2 x 2 voxels lie neither all inside nor all outside
//! the class. These eight bits, the code of the corner, determine which edges between neighbouring voxels the surface
//! cuts, each in its middle; the cut edges form polygons, and the area of their triangles is the area of the element.
//!
//! Marching cubes leave two choices open, which are made so that all areas equal those of the package `surface-distance`:
//! - Where two voxels of a face that touch only at its centre are inside and the other two outside, the surface separates
//!   the pair that belongs to the minority of the eight voxels (the inside, if there are four of each).
//! - A polygon that is not flat is cut into the triangles of largest area on a unit cube, whatever the spacing.

use super::{Element, Region};
use crate::metric::LabelMap;

/// A point of the cube between eight voxel centres, in half voxel sides: 0, 1 or 2 along each axis.
type Point = [i32; 3];

/// Bit of a voxel in a code: `4 x + 2 y + z` for x, y, z in {0, 1}.
fn bit([x, y, z]: Point) -> u8 {
    1 << (4 * x + 2 * y + z)
}

/// Area in mm² of the element of each code.
pub(super) fn areas_mm2(spacing: [f64; 3]) -> [f64; 256] {
    let mut areas = [0.0; 256];
    for (code, total) in (0..=u8::MAX).zip(&mut areas) {
        *total = polygons(code).iter().map(|polygon| area(polygon, 0, polygon.len() - 1, spacing).1).sum();
    }
    areas
}

/// Elements of the surface of `class` within `region`, which contains all voxels of the class, on the grid of the
/// region's corners.
pub(super) fn surface_elements(map: &LabelMap<'_>, class: u8, region: Region, areas: &[f64; 256]) -> Vec<Element> {
    let [_, ny, nz] = map.dims();
    let voxels = map.voxels();
    let [dx, dy, dz] = region.dims();
    let mut elements = Vec::new();
    for x in 0..=dx {
        for y in 0..=dy {
            // The rows of voxels at x - 1 and x, y - 1 and y, where the region has them.
            let row = |i: usize, j: usize| {
                let inside = (1..=dx).contains(&i) && (1..=dy).contains(&j);
                inside.then(|| {
                    let first = ((region.start[0] + i - 1) * ny + region.start[1] + j - 1) * nz;
                    &voxels[first + region.start[2]..first + region.end[2]]
                })
            };
            let rows = [row(x, y), row(x, y + 1), row(x + 1, y), row(x + 1, y + 1)];
            let mut code = 0_u8;
            for z in 0..=dz {
                // Moves the four voxels at the upper z to the lower one.
                code = (code >> 1) & 0b0101_0101;
                for (number, row) in rows.iter().enumerate() {
                    let is_in = z < dz && row.is_some_and(|row| row[z] == class);
                    code |= u8::from(is_in) << (2 * number + 1);
                }
                if code != 0 && code != u8::MAX {
                    let at = (x * (dy + 1) + y) * (dz + 1) + z;
                    elements.push(Element { at, weight: areas[usize::from(code)] });
                }
            }
        }
    }
    elements
}

/// Polygons that separate the inside of a code from its outside; their corners are midpoints of edges.
fn polygons(code: u8) -> Vec<Vec<Point>> {
    let mut segments = Vec::new();
    for axis in 0..3 {
        for side in 0..2 {
            segments.extend(face_segments(code, axis, side));
        }
    }
    // Each cut edge belongs to two faces, so each point to two segments: the segments form closed lines.
    let mut polygons = Vec::new();
    while let Some((first, mut end)) = segments.pop() {
        let mut polygon = vec![first];
        while end != first {
            polygon.push(end);
            let next = segments.iter().position(|&(a, b)| a == end || b == end).expect("lines are closed");
            let (a, b) = segments.swap_remove(next);
            end = if a == end { b } else { a };
        }
        polygons.push(polygon);
    }
    polygons
}

/// Segments that separate inside from outside on the face at `side` (0 or 1) of `axis`.
fn face_segments(code: u8, axis: usize, side: i32) -> Vec<(Point, Point)> {
    let corner = |[u, v]: [i32; 2]| {
        let mut point = [side; 3];
        (point[(axis + 1) % 3], point[(axis + 2) % 3]) = (u, v);
        point
    };
    let corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(corner);
    let inside = corners.map(|corner| code & bit(corner) != 0);
    let middle = |i: usize| -> Point { std::array::from_fn(|a| corners[i % 4][a] + corners[(i + 1) % 4][a]) };
    let cuts: Vec<usize> = (0..4).filter(|&i| inside[i] != inside[(i + 1) % 4]).collect();
    match cuts.as_slice() {
        [] => vec![],
        &[first, second] => vec![(middle(first), middle(second))],
        _ => {
            let minority = code.count_ones() <= 4;
            let cut_off = (0..4).filter(|&i| inside[i] == minority);
            cut_off.map(|i| (middle(i + 3), middle(i))).collect()
        }
    }
}

/// Area of the part of a polygon from corner `first` to corner `last`, divided into the triangles of largest area on a
/// unit cube: that area, and the area in mm².
fn area(polygon: &[Point], first: usize, last: usize, spacing: [f64; 3]) -> (f64, f64) {
    let through = |middle: usize| {
        let corners = [first, middle, last].map(|corner| polygon[corner]);
        let parts = [area(polygon, first, middle, spacing), area(polygon, middle, last, spacing)];
        let own = (triangle(corners, [1.0; 3]), triangle(corners, spacing));
        parts.iter().fold(own, |sum, part| (sum.0 + part.0, sum.1 + part.1))
    };
    (first + 1..last).map(through).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, 0.0))
}

/// Area of a triangle, given its corners in half voxel sides.
fn triangle([a, b, c]: [Point; 3], spacing: [f64; 3]) -> f64 {
    let side =
        |to: Point| -> [f64; 3] { std::array::from_fn(|axis| f64::from(to[axis] - a[axis]) / 2.0 * spacing[axis]) };
    let (u, v) = (side(b), side(c));
    let normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    normal.iter().map(|part| part * part).sum::<f64>().sqrt() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(inside: &[Point], expected: f64) {
        let code = inside.iter().fold(0, |code, &voxel| code | bit(voxel));
        let area = areas_mm2([1.0; 3])[usize::from(code)];
        assert!((area - expected).abs() < 1e-12, "{inside:?}: {area}, expected {expected}");
    }

    #[test]
    fn areas_of_simple_codes_are_those_of_geometry() {
        // A corner is cut off by an equilateral triangle with sides of half a diagonal, an edge by a rectangle, a face by
        // a square, and a corner with its three neighbours by a regular hexagon.
        let (diagonal, root) = (0.5_f64.sqrt(), 3_f64.sqrt());
        let corner = root / 4.0 * diagonal.powi(2);
        check(&[], 0.0);
        check(&[[0, 0, 0]], corner);
        check(&[[0, 0, 0], [0, 0, 1]], diagonal);
        check(&[[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]], 1.0);
        check(&[[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], 6.0 * corner);
        // Voxels that touch at an edge or a corner are cut off one by one.
        check(&[[0, 0, 0], [0, 1, 1]], 2.0 * corner);
        check(&[[0, 0, 0], [1, 1, 1]], 2.0 * corner);
        check(&[[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], 4.0 * corner);
        // Three voxels of a face: the triangle over the middle one, and a trapezoid that is flat.
        let trapezoid = 1.5 * diagonal * 0.375_f64.sqrt();
        check(&[[0, 0, 0], [0, 0, 1], [0, 1, 0]], 0.5 + trapezoid);
    }

    #[test]
    fn inside_and_outside_have_the_same_surface() {
        let areas = areas_mm2([0.7, 1.1, 2.5]);
        for code in 0..=255_usize {
            assert!((areas[code] - areas[255 - code]).abs() < 1e-12, "{code}");
        }
    }
}
