//! Connected components of a label map.

/// Clears all voxels of `classes` except each class's largest connected component; returns the number of cleared
/// voxels.
///
/// `labels` has `shape` voxels along its axes, the first one fastest. Voxels that share a face, an edge or a corner are
/// connected, as in nnU-Net's postprocessing. Among components of equal size, the one that contains the earliest voxel
/// in the file is kept. Takes one byte per voxel.
///
/// # Panics
/// If there are not as many labels as `shape` says.
pub fn keep_largest(labels: &mut [u8], shape: [usize; 3], classes: &[u8]) -> usize {
    assert_eq!(labels.len(), shape.iter().product::<usize>(), "one label per voxel");
    if classes.is_empty() {
        return 0;
    }
    let mut wanted = [false; 256];
    for &class in classes {
        wanted[usize::from(class)] = true;
    }
    let mut filler = Filler { shape, marks: vec![UNSEEN; labels.len()], frontier: Vec::new() };
    // First voxel and size of the largest part of each class.
    let mut largest = [(0, 0); 256];
    for first in 0..labels.len() {
        let class = usize::from(labels[first]);
        if wanted[class] && filler.marks[first] == UNSEEN {
            let size = filler.fill(labels, first, SEEN);
            if size > largest[class].1 {
                largest[class] = (first, size);
            }
        }
    }
    for &(first, size) in &largest {
        if size > 0 {
            filler.fill(labels, first, KEPT);
        }
    }
    let mut num_cleared = 0;
    for (label, &mark) in labels.iter_mut().zip(&filler.marks) {
        if mark == SEEN {
            *label = 0;
            num_cleared += 1;
        }
    }
    num_cleared
}

const UNSEEN: u8 = 0;
const SEEN: u8 = 1;
const KEPT: u8 = 2;

struct Filler {
    shape: [usize; 3],
    marks: Vec<u8>,
    /// Voxels whose neighbours are still to be visited.
    frontier: Vec<usize>,
}

impl Filler {
    /// Marks the component that contains `first`; returns its number of voxels.
    fn fill(&mut self, labels: &[u8], first: usize, mark: u8) -> usize {
        let [nx, ny, nz] = self.shape;
        let class = labels[first];
        self.marks[first] = mark;
        self.frontier.push(first);
        let mut size = 0;
        while let Some(at) = self.frontier.pop() {
            size += 1;
            let [x, y, z] = [at % nx, at / nx % ny, at / (nx * ny)];
            for z in z.saturating_sub(1)..(z + 2).min(nz) {
                for y in y.saturating_sub(1)..(y + 2).min(ny) {
                    for x in x.saturating_sub(1)..(x + 2).min(nx) {
                        let neighbour = (z * ny + y) * nx + x;
                        if labels[neighbour] == class && self.marks[neighbour] != mark {
                            self.marks[neighbour] = mark;
                            self.frontier.push(neighbour);
                        }
                    }
                }
            }
        }
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &[u8], shape: [usize; 3], classes: &[u8], expected: &[u8]) {
        let mut kept = labels.to_vec();
        let num_cleared = keep_largest(&mut kept, shape, classes);
        assert_eq!(kept, expected);
        assert_eq!(num_cleared, labels.iter().zip(expected).filter(|(before, after)| before != after).count());
        // Cleaning twice changes nothing.
        assert_eq!(keep_largest(&mut kept, shape, classes), 0);
    }

    #[test]
    fn the_largest_part_of_each_wanted_class_stays() {
        let labels = [1, 0, 1, 1, 0, 2, 0, 2, 2, 1];
        check(&labels, [10, 1, 1], &[1], &[0, 0, 1, 1, 0, 2, 0, 2, 2, 0]);
        check(&labels, [1, 10, 1], &[1, 2], &[0, 0, 1, 1, 0, 0, 0, 2, 2, 0]);
        check(&labels, [1, 1, 10], &[3], &labels);
    }

    #[test]
    fn voxels_that_share_a_corner_are_connected() {
        // Two voxels at opposite corners of a cube, and a third one away from both.
        let mut labels = vec![0; 27];
        (labels[0], labels[13], labels[18]) = (1, 1, 1);
        let mut expected = labels.clone();
        check(&labels, [3; 3], &[1], &expected);
        labels[18] = 0;
        labels[26] = 0;
        labels[20] = 1;
        expected.clone_from(&labels);
        check(&labels, [3; 3], &[1], &expected);
        let apart = [1, 1, 0, 0, 0, 1];
        check(&apart, [2, 1, 3], &[1], &[1, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn the_first_of_equal_parts_stays() {
        check(&[0, 1, 0, 1, 0, 1], [6, 1, 1], &[1], &[0, 1, 0, 0, 0, 0]);
    }
}
