//! Layouts of parameters in files of the reference implementation and in the models of this crate.
//!
//! They differ in two cases. The weight of a linear map is `[out, in]` in the file and `[in, out]` in the model. The
//! patch embedding of the pre-training model is a convolution `[E, C, p, p, p]` in the file and a linear map
//! `[p·p·p·C, E]` in the model, channel fastest.

/// Relation between a tensor in a file and the model's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Identical layouts.
    Same,
    /// A matrix that is `[out, in]` in the file and `[in, out]` in the model.
    Transposed,
    /// A patch embedding that is `[E, C, p, p, p]` in the file and `[p·p·p·C, E]` in the model.
    PatchConv {
        /// Number of channels C.
        in_channels: usize,
    },
}

impl Layout {
    /// Shape in a file of a parameter that has `shape` in the model.
    pub(super) fn file_shape(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Self::Transposed, &[d_input, d_output]) => vec![d_output, d_input],
            (Self::PatchConv { in_channels }, &[width, embed_dim]) => {
                let side = cube_root(width / in_channels);
                vec![embed_dim, in_channels, side, side, side]
            }
            _ => shape.to_vec(),
        }
    }

    /// Converts values from the file's layout, of shape `file_shape`, to the model's.
    pub(super) fn ours(self, values: &[f32], file_shape: &[usize]) -> Vec<f32> {
        match (self, file_shape) {
            (Self::Transposed, &[d_output, d_input]) => transposed(values, d_output, d_input),
            (Self::PatchConv { in_channels }, &[embed_dim, ..]) => {
                // Channel slowest within a row becomes channel fastest; then rows and columns change places.
                let volume = values.len() / (embed_dim * in_channels);
                let rows = values.chunks_exact(in_channels * volume);
                let rows: Vec<f32> = rows.flat_map(|row| transposed(row, in_channels, volume)).collect();
                transposed(&rows, embed_dim, volume * in_channels)
            }
            _ => values.to_vec(),
        }
    }

    /// Converts values from the model's layout to the file's, of shape `file_shape`.
    pub(super) fn theirs(self, values: &[f32], file_shape: &[usize]) -> Vec<f32> {
        match (self, file_shape) {
            (Self::Transposed, &[d_output, d_input]) => transposed(values, d_input, d_output),
            (Self::PatchConv { in_channels }, &[embed_dim, ..]) => {
                let volume = values.len() / (embed_dim * in_channels);
                let rows = transposed(values, volume * in_channels, embed_dim);
                rows.chunks_exact(volume * in_channels).flat_map(|row| transposed(row, volume, in_channels)).collect()
            }
            _ => values.to_vec(),
        }
    }
}

/// Transpose of a row-major matrix.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    debug_assert_eq!(values.len(), rows * columns);
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

fn cube_root(volume: usize) -> usize {
    (volume as f64).cbrt().round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converting_there_and_back_is_the_identity() {
        let values: Vec<f32> = (0..3 * 2 * 8).map(|i| i as f32).collect();
        let layout = Layout::PatchConv { in_channels: 2 };
        let file_shape = layout.file_shape(&[16, 3]);
        assert_eq!(file_shape, [3, 2, 2, 2, 2]);
        let ours = layout.ours(&values, &file_shape);
        // Row 1 is the first voxel's second channel: values 8, 24 and 40 of the three outputs.
        assert_eq!(ours[3..6], [8.0, 24.0, 40.0]);
        assert_eq!(layout.theirs(&ours, &file_shape), values);
    }
}
