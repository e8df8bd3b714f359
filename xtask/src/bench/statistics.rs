//! Medians, geometric means and ratios to the best.

/// The median; of an even number the mean of the middle two. None of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The geometric mean of positive values. None of nothing.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    Some((values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

/// Each value divided by the least of them; what is absent stays absent.
pub fn normalised(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let Some(best) = least(values) else { return values.to_vec() };
    values.iter().map(|v| v.map(|v| v / best)).collect()
}

/// The least of the values that are there and above zero.
pub fn least(values: &[Option<f64>]) -> Option<f64> {
    values.iter().flatten().copied().filter(|v| *v > 0.0).min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 100.0, 2.0]), Some(3.0));
    }

    #[test]
    fn the_geometric_mean_weighs_ratios_alike() {
        assert_eq!(geometric_mean(&[]), None);
        assert!((geometric_mean(&[0.5, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert!((geometric_mean(&[1.0, 8.0, 27.0]).unwrap() - 6.0).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_to_the_best() {
        assert_eq!(
            normalised(&[Some(4.0), None, Some(2.0), Some(3.0)]),
            [Some(2.0), None, Some(1.0), Some(1.5)]
        );
        assert_eq!(normalised(&[None, None]), [None, None]);
    }
}
