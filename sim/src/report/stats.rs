//! Quantiles, distributions and fits. Values that are not finite are left out wherever a sample is taken in, so that
//! nothing downstream has to ask.

use crate::record::{Fit, GrowthPoint};

/// The finite ones of `values`, in order.
#[must_use]
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The smallest of `sorted` that at least the share `q` of them does not exceed; `None` of nothing.
///
/// By nearest rank: the answer is always a value that was seen, as in [`cdf`].
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = index((q.clamp(0.0, 1.0) * sorted.len() as f64 - 1e-9).ceil());
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Mean of the finite ones; `None` of nothing.
#[must_use]
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for value in values.into_iter().filter(|value| value.is_finite()) {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}

/// Points `(value, share at or below it)` of the distribution of `sorted`, at most `most` of them.
///
/// `of` is the number of attempts: what never happened has no value, and the last share stays below 1 for it.
#[must_use]
pub fn cdf(sorted: &[f64], of: usize, most: usize) -> Vec<(f64, f64)> {
    let (count, of) = (sorted.len(), of.max(sorted.len()));
    let points = count.min(most.max(1));
    let rank = |point: usize| (point + 1) * count / points;
    (0..points).map(|point| (sorted[rank(point) - 1], rank(point) as f64 / of as f64)).collect()
}

/// At most `most` of `values` at even distances, the first and the last among them.
#[must_use]
pub fn thin<T: Copy>(values: &[T], most: usize) -> Vec<T> {
    let most = most.max(2);
    if values.len() <= most {
        return values.to_vec();
    }
    (0..most).map(|point| values[point * (values.len() - 1) / (most - 1)]).collect()
}

/// The line `y = a + b x` through the finite ones of `points` with the least squares.
///
/// With fewer than two different `x` there is no slope to speak of: the mean, `b = 0` and `r2 = 0`.
#[must_use]
pub fn least_squares(points: &[(f64, f64)]) -> Fit {
    let finite = || points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
    let (Some(mean_x), Some(mean_y)) = (mean(finite().map(|(x, _)| x)), mean(finite().map(|(_, y)| y)))
    else {
        return Fit::default();
    };
    let sum = |of: &dyn Fn(f64, f64) -> f64| finite().map(|(x, y)| of(x - mean_x, y - mean_y)).sum::<f64>();
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    if xx <= f64::EPSILON * mean_x.abs().max(1.0) {
        return Fit { a: mean_y, b: 0.0, r2: 0.0 };
    }
    let b = xy / xx;
    let left = sum(&|x, y| (y - b * x).powi(2));
    // A level line leaves nothing to explain, and explains it.
    let r2 = if yy > f64::EPSILON { (1.0 - left / yy).clamp(0.0, 1.0) } else { 1.0 };
    Fit { a: mean_y - b * mean_x, b, r2 }
}

/// Requests against the natural logarithm of the number of nodes.
#[must_use]
pub fn fit_log(points: &[GrowthPoint]) -> Fit {
    let points: Vec<_> = points
        .iter()
        .filter(|point| point.nodes > 0)
        .map(|point| ((point.nodes as f64).ln(), point.requests))
        .collect();
    least_squares(&points)
}

/// The 95 % interval (Wilson's) of a share of which `hits` in `of` were seen: what a bin of few samples is worth.
#[must_use]
pub fn wilson(hits: u64, of: u64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, z) = (of as f64, 1.96_f64);
    let share = (hits as f64 / n).min(1.0);
    let middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    // Rounding must not put the interval beside the share itself.
    ((middle - half).clamp(0.0, share), (middle + half).clamp(share, 1.0))
}

/// The part of the sum that the largest `part` of `sorted` carry, at least one of them; `None` if the sum is 0.
#[must_use]
pub fn top_share(sorted: &[f64], part: f64) -> Option<f64> {
    let total: f64 = sorted.iter().sum();
    let count = index((part.clamp(0.0, 1.0) * sorted.len() as f64).ceil()).max(1);
    (total > 0.0).then(|| sorted.iter().rev().take(count).sum::<f64>() / total)
}

/// `value` as an index: 0 for what is negative or not a number.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is what is wanted")]
pub fn index(value: f64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_seen() {
        let values = sorted([3.0, 1.0, f64::NAN, 2.0, 4.0, f64::INFINITY]);
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 0.5), Some(2.0));
        assert_eq!(quantile(&values, 0.51), Some(3.0));
        assert_eq!(quantile(&values, 0.99), Some(4.0));
        assert_eq!(quantile(&values, 1.0), Some(4.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        // 0.07 * 100 is a little more than 7 in binary.
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.07), Some(7.0));
    }

    #[test]
    fn a_distribution_of_attempts_that_failed_ends_below_one() {
        let points = cdf(&[1.0, 2.0, 4.0], 4, 100);
        assert_eq!(points, [(1.0, 0.25), (2.0, 0.5), (4.0, 0.75)]);
        assert_eq!(cdf(&[], 5, 10), []);
        let many: Vec<f64> = (0..1000).map(f64::from).collect();
        let points = cdf(&many, 1000, 10);
        assert_eq!(points.len(), 10);
        assert_eq!(points.last(), Some(&(999.0, 1.0)));
    }

    #[test]
    fn thinning_keeps_both_ends() {
        let many: Vec<u32> = (0..1000).collect();
        let few = thin(&many, 7);
        assert_eq!((few.len(), few[0], few[6]), (7, 0, 999));
        assert_eq!(thin(&many[..3], 7), [0, 1, 2]);
    }

    #[test]
    fn the_fit_finds_the_line_that_made_the_points() {
        let point = |nodes: usize| GrowthPoint {
            nodes,
            requests: 2.0 + 1.5 * (nodes as f64).ln(),
            ..GrowthPoint::default()
        };
        let fit = fit_log(&[point(20), point(100), point(500)]);
        assert!((fit.a - 2.0).abs() < 1e-9 && (fit.b - 1.5).abs() < 1e-9 && (fit.r2 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_fit_of_noise_explains_part_of_it() {
        let fit = least_squares(&[(0.0, 0.0), (1.0, 2.0), (2.0, 1.0), (3.0, 3.0)]);
        assert!((fit.b - 0.8).abs() < 1e-9 && (fit.a - 0.3).abs() < 1e-9 && (fit.r2 - 0.64).abs() < 1e-9);
    }

    #[test]
    fn fits_of_too_few_points_are_finite() {
        assert_eq!(fit_log(&[]), Fit::default());
        let one = GrowthPoint { nodes: 50, requests: 6.0, ..GrowthPoint::default() };
        assert_eq!(fit_log(std::slice::from_ref(&one)), Fit { a: 6.0, b: 0.0, r2: 0.0 });
        let same = GrowthPoint { requests: 8.0, ..one.clone() };
        assert_eq!(fit_log(&[one.clone(), same]), Fit { a: 7.0, b: 0.0, r2: 0.0 });
        let broken = GrowthPoint { nodes: 90, requests: f64::NAN, ..one.clone() };
        assert_eq!(fit_log(&[one, broken]), Fit { a: 6.0, b: 0.0, r2: 0.0 });
        assert_eq!(least_squares(&[(1.0, 3.0), (2.0, 3.0)]).r2, 1.0);
    }

    #[test]
    fn the_interval_of_a_share_holds_it_and_narrows_with_samples() {
        let (few, many) = (wilson(9, 10), wilson(900, 1000));
        assert!(few.0 < many.0 && many.0 < 0.9 && 0.9 < many.1 && many.1 < few.1);
        assert_eq!(wilson(5, 5).1, 1.0);
        assert_eq!(wilson(0, 5).0, 0.0);
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }

    #[test]
    fn the_top_share_is_that_of_the_largest() {
        assert_eq!(top_share(&[0.0, 1.0, 1.0, 2.0, 6.0], 0.1), Some(0.6));
        assert_eq!(top_share(&[0.0, 0.0], 0.1), None);
        assert_eq!(top_share(&[], 0.1), None);
    }

    #[test]
    fn an_index_is_never_out_of_the_way() {
        assert_eq!((index(-3.0), index(f64::NAN), index(2.9)), (0, 0, 2));
    }
}
