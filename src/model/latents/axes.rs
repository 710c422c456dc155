//! Orthonormal axes of a space, the ones along which most varies first; and products of matrices.

/// `left` \[rows\]\[inner\] times `right` \[inner\]\[columns\], row by row.
pub(super) fn product(left: &[f32], right: &[f32], inner: usize) -> Vec<f32> {
    let (rows, columns) = (left.len() / inner, right.len() / inner);
    multiply(left, right, [rows, inner, columns], (columns, 1))
}

/// `left` \[rows\]\[inner\] times the transpose of `right` \[columns\]\[inner\].
pub(super) fn product_transposed(left: &[f32], right: &[f32], inner: usize) -> Vec<f32> {
    let (rows, columns) = (left.len() / inner, right.len() / inner);
    multiply(left, right, [rows, inner, columns], (1, inner))
}

// `steps`: from a row of the right matrix to the next, and from a column to the next.
fn multiply(
    left: &[f32],
    right: &[f32],
    [rows, inner, columns]: [usize; 3],
    steps: (usize, usize),
) -> Vec<f32> {
    assert_eq!((left.len(), right.len()), (rows * inner, inner * columns));
    let mut out = vec![0.0; rows * columns];
    let [row_step, column_step] = [steps.0, steps.1].map(|step| step as isize);
    // SAFETY: the slices have as many numbers as rows, columns and steps reach, and `out` is nobody else's.
    unsafe {
        matrixmultiply::sgemm(
            rows,
            inner,
            columns,
            1.0,
            left.as_ptr(),
            inner as isize,
            1,
            right.as_ptr(),
            row_step,
            column_step,
            0.0,
            out.as_mut_ptr(),
            columns as isize,
            1,
        );
    }
    out
}

/// How often axes are turned towards where most varies. Each turn separates as two steps of the power method do; six keep as much of the
/// attention of a trained model as eigenvectors do (`docs/selection.md`).
const TURNS: usize = 3;

/// The rows of the result are `size` orthonormal axes: near enough to the eigenvectors of a symmetric matrix, by falling magnitude of
/// their eigenvalues, that few of them hold most of it. Orthogonal iteration (Golub and Van Loan, 8.2.4). Those of a matrix with what is
/// no number are the space's own.
///
/// The same on every machine, bit for bit: axes that say equally much may lie anywhere, and what is cached on some axes cannot be read on others.
pub(super) fn principal(symmetric: &[f32], size: usize) -> Vec<f32> {
    let mut axes: Vec<f32> = (0..size * size).map(|i| f32::from(i % (size + 1) == 0)).collect();
    let length = symmetric.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32;
    if !length.is_finite() || length == 0.0 {
        return axes;
    }
    let scaled: Vec<f32> = symmetric.iter().map(|v| v / length).collect();
    let squared = dots(&scaled, &scaled, size);
    for _ in 0..TURNS {
        axes = dots(&axes, &squared, size);
        orthonormalise(&mut axes, size);
    }
    axes
}

/// Of each row of `left` with each of `right`, in one order of additions on every machine.
pub(super) fn dots(left: &[f32], right: &[f32], length: usize) -> Vec<f32> {
    let (rows, columns) = (left.len() / length, right.len() / length);
    let mut out = vec![0.0; rows * columns];
    // So few rows that they stay near while others pass by.
    const NEAR: usize = 16;
    for first in (0..columns).step_by(NEAR) {
        for (row, out) in left.chunks_exact(length).zip(out.chunks_exact_mut(columns)) {
            let near = right[first * length..].chunks_exact(length).take(NEAR);
            out[first..].iter_mut().zip(near).for_each(|(out, other)| *out = dot(row, other));
        }
    }
    out
}

// Gram and Schmidt's way, row after row, twice each: once leaves what cancellation left.
fn orthonormalise(rows: &mut [f32], size: usize) {
    for i in 0..size {
        let (before, rest) = rows.split_at_mut(i * size);
        let row = &mut rest[..size];
        // Where nothing new is left, some dimension stands in that is not in the rows before.
        let mut stand_in = 0..size;
        while !is_apart(before, row, size) {
            let dimension = stand_in.next().expect("fewer rows than dimensions leave one of them");
            row.fill(0.0);
            row[dimension] = 1.0;
        }
    }
}

// Takes off a row what the rows before have of it, and gives it the length 1; or false where hardly anything is left.
fn is_apart(before: &[f32], row: &mut [f32], size: usize) -> bool {
    for _ in 0..2 {
        if !has_length_one(row, 1e-30) {
            return false;
        }
        for other in before.chunks_exact(size) {
            let share = dot(row, other);
            row.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
        }
        if !has_length_one(row, 1e-4) {
            return false;
        }
    }
    true
}

fn has_length_one(row: &mut [f32], least: f32) -> bool {
    let length = dot(row, row).sqrt();
    if length.is_nan() || length <= least {
        return false;
    }
    row.iter_mut().for_each(|value| *value /= length);
    true
}

// In sixteen sums, which a compiler makes lanes of.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let (a, rest_a) = a.as_chunks::<LANES>();
    let (b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let rest = rest_a.iter().zip(rest_b).map(|(a, b)| a * b);
    sums.into_iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_pcg::Pcg64;
    use rand_pcg::rand_core::Rng;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Pcg64::new(seed.into(), 1);
        (0..count).map(|_| random.next_u32() as f32 / 2f32.powi(31) - 1.0).collect()
    }

    #[test]
    fn products_are_those_of_their_definition() {
        let (a, b) = (random(5 * 7, 1), random(7 * 3, 2));
        let want = |i: usize, j: usize| (0..7).map(|k| a[i * 7 + k] * b[k * 3 + j]).sum::<f32>();
        let transposed: Vec<f32> = (0..21).map(|i| b[i % 7 * 3 + i / 7]).collect();
        let made =
            [product(&a, &b, 7), product_transposed(&a, &transposed, 7), dots(&a, &transposed, 7)];
        for made in made {
            for (at, &made) in made.iter().enumerate() {
                assert!((made - want(at / 3, at % 3)).abs() < 1e-5);
            }
        }
    }

    // With more rows than stay near, and lengths beside those of lanes.
    #[test]
    fn dots_are_of_all_rows_with_all() {
        let (a, b) = (random(5 * 33, 5), random(37 * 33, 6));
        let want = product_transposed(&a, &b, 33);
        assert_eq!(dots(&a, &b, 33).len(), want.len());
        for (made, want) in dots(&a, &b, 33).into_iter().zip(want) {
            assert!((made - want).abs() < 1e-5);
        }
    }

    fn assert_orthonormal(axes: &[f32], size: usize) {
        for (at, product) in product_transposed(axes, axes, size).into_iter().enumerate() {
            let want = f32::from(at % (size + 1) == 0);
            assert!((product - want).abs() < 1e-5, "{product} at {at}");
        }
    }

    #[test]
    fn the_first_axes_hold_what_varies() {
        // Three directions of falling weight, which are no dimensions, and a little of everything.
        let size = 40;
        let mut directions = random(3 * size, 3);
        for i in 0..3 {
            let (before, rest) = directions.split_at_mut(i * size);
            assert!(is_apart(before, &mut rest[..size], size));
        }
        let mut matrix: Vec<f32> =
            (0..size * size).map(|i| 0.01 * f32::from(i % (size + 1) == 0)).collect();
        for (i, weight) in [9.0, 4.0, 1.0].into_iter().enumerate() {
            let d = &directions[i * size..][..size];
            for at in 0..size * size {
                matrix[at] += weight * d[at / size] * d[at % size];
            }
        }
        let axes = principal(&matrix, size);
        assert_orthonormal(&axes, size);
        for i in 0..3 {
            let along = dot(&axes[i * size..][..size], &directions[i * size..][..size]);
            assert!(along.abs() > 0.999, "axis {i}: {along}");
        }
    }

    #[test]
    fn axes_of_too_few_directions_are_orthonormal_all_the_same() {
        for size in [1, 2, 9, 64] {
            // One direction, nothing at all, and what is no number.
            let d = random(size, 4);
            let one: Vec<f32> = (0..size * size).map(|i| d[i / size] * d[i % size]).collect();
            for matrix in [one, vec![0.0; size * size], vec![f32::NAN; size * size]] {
                assert_orthonormal(&principal(&matrix, size), size);
            }
        }
    }
}
