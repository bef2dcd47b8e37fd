//! A curve over the optimizer steps of a run, in bounded memory.
//!
//! About two thousand values are kept individually. Beyond that, values of neighbouring steps share a point with their
//! mean, minimum and maximum: a spike stays visible at any length.

/// Maximum number of points: about as many as a screen or picture can show.
const CAPACITY: usize = 2048;

/// Fraction of a curve's length over which it is smoothed.
const SMOOTHED_PART: f64 = 1.0 / 50.0;
/// Minimum number of values to smooth over. A curve shorter than three times this is not smoothed.
const LEAST_SMOOTHED: f64 = 8.0;

/// Summary of neighbouring values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// First step of the point.
    pub first_step: u64,
    /// Last step of the point.
    pub last_step: u64,
    /// Number of values.
    pub count: u64,
    /// Mean of the values.
    pub mean: f64,
    /// Smallest of the values.
    pub min: f64,
    /// Largest of the values.
    pub max: f64,
}

impl Point {
    fn new(step: u64, value: f64) -> Self {
        Self { first_step: step, last_step: step, count: 1, mean: value, min: value, max: value }
    }

    fn absorb(&mut self, later: &Self) {
        let count = self.count + later.count;
        self.mean += (later.mean - self.mean) * (later.count as f64 / count as f64);
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.last_step = later.last_step;
        self.count = count;
    }

    /// Position on the axis: the middle of the point's steps.
    #[must_use]
    pub fn step(&self) -> f64 {
        f64::midpoint(self.first_step as f64, self.last_step as f64)
    }
}

/// Values of one quantity, in step order.
#[derive(Clone, Debug)]
pub struct Series {
    points: Vec<Point>,
    /// Number of steps that share a point.
    width: u64,
}

impl Default for Series {
    fn default() -> Self {
        Self { points: vec![], width: 1 }
    }
}

impl Series {
    /// Appends the value of a step that is later than all before. Values that are not finite, such as the Dice of a
    /// class that occurs in no case, are left out.
    pub fn push(&mut self, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.place(Point::new(step, value));
        while self.points.len() > CAPACITY {
            self.width *= 2;
            for point in std::mem::take(&mut self.points) {
                self.place(point);
            }
        }
    }

    fn place(&mut self, point: Point) {
        match self.points.last_mut() {
            Some(last) if last.first_step / self.width == point.first_step / self.width => last.absorb(&point),
            _ => self.points.push(point),
        }
    }

    /// The points, in step order.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Number of steps over which a noisy curve is smoothed; `None` for a short curve.
    #[must_use]
    pub fn smoothing_span(&self) -> Option<f64> {
        let count = self.points.iter().map(|point| point.count).sum::<u64>() as f64;
        (count >= 3.0 * LEAST_SMOOTHED).then_some((count * SMOOTHED_PART).round().max(LEAST_SMOOTHED))
    }

    /// Running mean around each point over about `span` steps: weights decay by a factor of e within half a span on
    /// either side.
    #[must_use]
    pub fn smoothed(&self, span: f64) -> Vec<(f64, f64)> {
        let before = fading(self.points.iter(), span / 2.0);
        let mut after = fading(self.points.iter().rev(), span / 2.0);
        after.reverse();
        let mean = |((point, before), after): ((&Point, [f64; 2]), [f64; 2])| {
            // Both sums include the point itself.
            let own = point.count as f64;
            let sum = before[0] + after[0] - own * point.mean;
            (point.step(), sum / (before[1] + after[1] - own))
        };
        self.points.iter().zip(before).zip(after).map(mean).collect()
    }
}

/// Weighted sum and total weight of the points up to each point; weights decay by a factor of e over `span` steps.
fn fading<'a>(points: impl Iterator<Item = &'a Point>, span: f64) -> Vec<[f64; 2]> {
    let mut faded = [0.0, 0.0];
    points
        .map(|point| {
            let count = point.count as f64;
            let keep = (-count / span).exp();
            faded = [keep * faded[0] + count * point.mean, keep * faded[1] + count];
            faded
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: impl IntoIterator<Item = f64>) -> Series {
        let mut series = Series::default();
        for (step, value) in (1..).zip(values) {
            series.push(step, value);
        }
        series
    }

    #[test]
    fn short_curve_keeps_every_value() {
        let values = [3.0, 1.0, 2.0];
        let kept: Vec<f64> = series(values).points().iter().map(|point| point.mean).collect();
        assert_eq!(kept, values);
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let kept = series([f64::NAN, 2.0, f64::INFINITY, f64::NEG_INFINITY, 1.0]);
        let kept: Vec<(u64, f64)> = kept.points().iter().map(|point| (point.first_step, point.mean)).collect();
        assert_eq!(kept, [(2, 2.0), (5, 1.0)]);
    }

    #[test]
    fn long_curve_is_bounded_and_keeps_mean_and_spikes() {
        let spike = 654_321;
        let long = series((0..1_000_000).map(|i| if i == spike { 100.0 } else { f64::from(i % 3) }));
        let points = long.points();
        assert!((CAPACITY / 2..=CAPACITY).contains(&points.len()), "{}", points.len());
        assert_eq!(points.iter().map(|p| p.count).sum::<u64>(), 1_000_000);
        let mean = points.iter().map(|p| p.mean * p.count as f64).sum::<f64>() / 1e6;
        assert!((mean - 1.000_1).abs() < 1e-3, "{mean}");
        let peak = points.iter().find(|p| p.max > 99.0).unwrap();
        assert!((peak.first_step..=peak.last_step).contains(&(spike as u64 + 1)));
        assert!(points.windows(2).all(|pair| pair[0].last_step < pair[1].first_step));
    }

    #[test]
    fn steps_can_be_far_apart() {
        let mut sparse = Series::default();
        for step in [1, 1_000_000, u64::MAX / 2] {
            sparse.push(step, 1.0);
        }
        assert_eq!(sparse.points().len(), 3);
    }

    #[test]
    fn only_long_curves_are_smoothed() {
        let check = |len, expected| assert_eq!(series(std::iter::repeat_n(1.0, len)).smoothing_span(), expected);
        check(1, None);
        check(23, None);
        check(24, Some(8.0));
        check(10_000, Some(200.0));
    }

    #[test]
    fn smoothing_uses_both_sides() {
        let check = |values: &[f64], span: f64, expected: &[f64]| {
            for ((_, smooth), expected) in series(values.iter().copied()).smoothed(span).iter().zip(expected) {
                assert!((smooth - expected).abs() < 1e-3, "{values:?} over {span}: {smooth} instead of {expected}");
            }
        };
        check(&[4.0, 4.0, 0.0], 1e-9, &[4.0, 4.0, 0.0]);
        check(&[4.0, 0.0], 1e6, &[2.0, 2.0]);
        // Each neighbour has weight 1/e.
        check(&[0.0, 3.0, 0.0], 2.0, &[3.0 / (1.0 + 1f64.exp() + (-1f64).exp()), 3.0 / (1.0 + 2.0 * (-1f64).exp())]);
    }
}
