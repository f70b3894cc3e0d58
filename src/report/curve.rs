//! Curves that can be read: noise smoothed away, and no more points than a screen shows.

/// Points of a curve, at most.
const POINTS: usize = 400;

/// An exponential moving average of `values` over about a thirtieth of them, started without a bias towards the first;
/// what is not finite is left out.
pub fn smoothed(values: impl ExactSizeIterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let share = 1.0 / (values.len() as f64 / 30.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let curve = values.filter(|(x, y)| x.is_finite() && y.is_finite()).map(|(x, y)| {
        sum += share * (y - sum);
        weight += share * (1.0 - weight);
        (x, sum / weight)
    });
    thinned(curve.collect())
}

/// At most [`POINTS`] of the points, the first and the last among them.
pub fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points;
    }
    (0..POINTS).map(|i| points[i * (points.len() - 1) / (POINTS - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_stays_and_noise_shrinks() {
        let steps = |f: fn(usize) -> f64| smoothed((0..300).map(move |i| (i as f64, f(i))));
        assert!(steps(|_| 3.0).iter().all(|&(_, y)| (y - 3.0).abs() < 1e-9));
        let noisy = steps(|i| if i % 2 == 0 { 1.0 } else { -1.0 });
        assert!(noisy[100..].iter().all(|(_, y)| y.abs() < 0.1));
        assert_eq!(steps(|i| if i == 7 { f64::NAN } else { 1.0 }).len(), 299);
        // Few steps stay as they are.
        assert_eq!(smoothed([(1.0, 5.0), (2.0, 9.0)].into_iter()), [(1.0, 5.0), (2.0, 9.0)]);
        assert!(smoothed(std::iter::empty()).is_empty());
    }

    #[test]
    fn ends_survive_thinning() {
        let many: Vec<(f64, f64)> = (0..100_001).map(|i| (f64::from(i), 0.0)).collect();
        let few = thinned(many);
        assert_eq!((few.len(), few[0].0, few[POINTS - 1].0), (POINTS, 0.0, 100_000.0));
    }
}
