//! The operations in their naive forms: the textbook's loops, over any [`Real`].

use crate::autodiff::Real;

/// A matrix as its rows.
pub type Rows<R> = Vec<Vec<R>>;

pub fn constants<R: Real>(x: &[f32]) -> Vec<R> {
    x.iter().map(|&x| R::of(x.into())).collect()
}

/// Row-major values as rows of `columns`.
pub fn rows<R: Copy>(x: &[R], columns: usize) -> Rows<R> {
    x.chunks_exact(columns).map(<[R]>::to_vec).collect()
}

pub fn sum<R: Real>(terms: impl IntoIterator<Item = R>) -> R {
    terms.into_iter().fold(R::of(0.0), |a, b| a + b)
}

pub fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    assert_eq!(a.len(), b.len());
    sum(a.iter().zip(b).map(|(&a, &b)| a * b))
}

pub fn mean<R: Real>(x: &[R]) -> R {
    sum(x.iter().copied()) / R::of(x.len() as f64)
}

/// L R.
pub fn product<R: Real>(left: &Rows<R>, right: &Rows<R>) -> Rows<R> {
    let columns = right.first().map_or(0, Vec::len);
    let element = |l: &Vec<R>, j: usize| sum(l.iter().zip(right).map(|(&l, r)| l * r[j]));
    left.iter().map(|l| (0..columns).map(|j| element(l, j)).collect()).collect()
}

/// W x + b, for W [out, in].
pub fn linear<R: Real>(x: &[R], w: &[R], b: &[R]) -> Vec<R> {
    w.chunks_exact(x.len()).zip(b).map(|(w, &b)| dot(w, x) + b).collect()
}

/// scale B A x, for A [rank, in] and `b` = B^T [rank, out].
pub fn low_rank<R: Real>(x: &[R], a: &[R], b: &[R], scale: f32) -> Vec<R> {
    let s: Vec<R> = a.chunks_exact(x.len()).map(|a| dot(a, x)).collect();
    let outputs = b.len() / s.len();
    let element = |o: usize| sum(s.iter().enumerate().map(|(r, &s)| s * b[r * outputs + o]));
    (0..outputs).map(|o| element(o) * R::of(scale.into())).collect()
}

pub fn add<R: Real>(a: &[R], b: &[R]) -> Vec<R> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| a + b).collect()
}

pub fn gelu<R: Real>(x: R) -> R {
    x * x.normal_cdf()
}

pub fn layer_norm<R: Real>(x: &[R], gamma: &[R], beta: &[R], eps: f32) -> Vec<R> {
    let m = mean(x);
    let centred: Vec<R> = x.iter().map(|&x| x - m).collect();
    let variance = dot(&centred, &centred) / R::of(x.len() as f64);
    let sd = (variance + R::of(eps.into())).sqrt();
    centred.iter().zip(gamma).zip(beta).map(|((&x, &g), &b)| x / sd * g + b).collect()
}

pub fn softmax<R: Real>(x: &[R]) -> Vec<R> {
    let largest = x.iter().map(|x| x.value()).fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<R> = x.iter().map(|&x| (x - R::of(largest)).exp()).collect();
    let total = sum(e.iter().copied());
    e.into_iter().map(|e| e / total).collect()
}

/// Attention of all heads of one sequence.
pub fn attention<R: Real>(q: &[Vec<R>], k: &[Vec<R>], v: &[Vec<R>], heads: usize) -> Rows<R> {
    let size = k[0].len() / heads;
    let scale = R::of(size as f64).sqrt();
    let head = |q: &[R], h: usize| -> Vec<R> {
        let columns = h * size..(h + 1) * size;
        let score = |k: &Vec<R>| dot(&q[columns.clone()], &k[columns.clone()]) / scale;
        let p = softmax(&k.iter().map(score).collect::<Vec<R>>());
        columns.clone().map(|j| sum(p.iter().zip(v).map(|(&p, v)| p * v[j]))).collect()
    };
    q.iter().map(|q| (0..heads).flat_map(|h| head(q, h)).collect()).collect()
}

/// The MWER loss of one utterance.
pub fn mwer<R: Real>(offsets: &[f64], scores: &[R], errors: &[u32], beta: R) -> R {
    let combined: Vec<R> = offsets.iter().zip(scores).map(|(&a, &g)| R::of(a) + beta * g).collect();
    let mean = errors.iter().map(|&e| f64::from(e)).sum::<f64>() / errors.len() as f64;
    sum(softmax(&combined).iter().zip(errors).map(|(&p, &e)| p * R::of(f64::from(e) - mean)))
}

/// The correlation loss of features [N, d], pair by pair of dimensions.
pub fn correlation<R: Real>(z: &Rows<R>, eps: f32) -> R {
    let (n, d) = (R::of(z.len() as f64), z[0].len());
    if z.len() < 2 {
        return R::of(0.0);
    }
    let standardised = |j: usize| -> Vec<R> {
        let column: Vec<R> = z.iter().map(|row| row[j]).collect();
        let m = mean(&column);
        let centred: Vec<R> = column.iter().map(|&x| x - m).collect();
        let sd = (dot(&centred, &centred) / n + R::of(eps.into())).sqrt();
        centred.iter().map(|&x| x / sd).collect()
    };
    let y: Rows<R> = (0..d).map(standardised).collect();
    let mut loss = R::of(0.0);
    for j in 0..d {
        for k in (0..d).filter(|&k| k != j) {
            let c = dot(&y[j], &y[k]) / n;
            loss = loss + c * c;
        }
    }
    loss / R::of(d as f64)
}
