use half::bf16;
use lorb_engine::device::Dtype;
use lorb_engine::device::cpu::Isa;
use lorb_engine::device::cpu::gemm::{Activation, Addend, Gemm, Packed, Right, Term, gemm};

use crate::autodiff::{Operation, Real};
use crate::harness::{Oracle, Random, ULP, bits};
use crate::oracle::{Rows, add, gelu, product, rows};

const ROWS: [usize; 9] = [1, 2, 3, 7, 8, 9, 13, 50, 97];
/// Panels of one, two and three vectors of 8 or 16 lanes, whole and ragged.
const WIDTHS: [usize; 8] = [1, 7, 17, 32, 40, 64, 97, 384];
const DEPTHS: [usize; 7] = [0, 1, 7, 17, 64, 97, 384];

/// One term.
#[derive(Clone, Copy, Debug)]
struct Factor {
    k: usize,
    packed: bool,
    transposed: bool,
    /// Floats between the rows of its matrices.
    gap: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Added {
    Nothing,
    Itself,
    Rows,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Nothing,
    Gelu,
    GeluWithSlope,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    /// Of the first term's packed matrix.
    dtype: Dtype,
    terms: [Option<Factor>; 2],
    bias: bool,
    added: Added,
    then: Then,
    gap: usize,
}

impl Case {
    fn random(random: &mut Random, m: usize, n: usize) -> Case {
        let mut factor = || loop {
            let k = random.pick(&DEPTHS);
            if m * n * k <= 1_000_000 {
                let [packed, transposed] = [0; 2].map(|_| random.below(2) == 0);
                break Factor { k, packed, transposed, gap: random.below(3) * 5 };
            }
        };
        let terms = [Some(factor()), Some(factor())];
        let second = random.below(2) == 0;
        Case {
            m,
            n,
            dtype: Dtype::F32,
            terms: [terms[0], terms[1].filter(|_| second)],
            bias: random.below(2) == 0,
            added: random.pick(&[Added::Nothing, Added::Itself, Added::Rows]),
            then: random.pick(&[Then::Nothing, Then::Nothing, Then::Gelu, Then::GeluWithSlope]),
            gap: random.below(3) * 7,
        }
    }

    /// L R alone, R packed.
    fn plain(m: usize, k: usize, n: usize) -> Case {
        let factor = Factor { k, packed: true, transposed: false, gap: 0 };
        Case {
            m,
            n,
            dtype: Dtype::F32,
            terms: [Some(factor), None],
            bias: false,
            added: Added::Nothing,
            then: Then::Nothing,
            gap: 0,
        }
    }

    /// The same with a first term of this type, which is then packed and not transposed.
    fn with_dtype(mut self, dtype: Dtype) -> Case {
        self.dtype = dtype;
        let first = self.terms[0].as_mut().unwrap();
        (first.packed, first.transposed) = (true, false);
        self
    }

    /// The operands as a CPU with these instructions multiplies them.
    fn rounded(&self, isa: Isa, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        let k = self.terms[0].unwrap().k;
        let (left, right) = x[..k * (self.m + self.n)].split_at_mut(self.m * k);
        let columns = transposed(right, self.n);
        let columns: Vec<f32> = columns.chunks(k.max(1)).flat_map(|c| rounded(isa, self.dtype, c)).collect();
        right.copy_from_slice(&transposed(&columns, k.max(1)));
        if isa.multiplies(self.dtype) {
            left.chunks_mut(k.max(1)).for_each(|row| round_left(isa, self.dtype, row));
        }
        x
    }

    fn factors(&self) -> impl Iterator<Item = Factor> {
        self.terms.into_iter().flatten()
    }

    /// The lengths of its operands: L and R of each term, bias, addend.
    fn lengths(&self) -> Vec<usize> {
        let of_terms = self.factors().flat_map(|t| [self.m * t.k, t.k * self.n]);
        of_terms.chain([self.n, self.m * self.n]).collect()
    }

    fn operands<'x, R>(&self, mut x: &'x [R]) -> Vec<&'x [R]> {
        let mut take = |n: usize| {
            let (first, rest) = x.split_at(n);
            x = rest;
            first
        };
        self.lengths().into_iter().map(&mut take).collect()
    }

    fn before_activation<R: Real>(&self, x: &[R]) -> Rows<R> {
        let operands = self.operands(x);
        let (pairs, [bias, addend]) = operands.split_last_chunk().unwrap();
        let mut c = vec![vec![R::of(0.0); self.n]; self.m];
        if self.bias {
            c.iter_mut().for_each(|row| *row = bias.to_vec());
        }
        for (pair, t) in pairs.chunks_exact(2).zip(self.factors()).filter(|(_, t)| t.k > 0) {
            let lr = product(&rows(pair[0], t.k), &rows(pair[1], self.n));
            c.iter_mut().zip(&lr).for_each(|(c, lr)| *c = add(c, lr));
        }
        if self.added != Added::Nothing {
            c.iter_mut().zip(rows(addend, self.n)).for_each(|(c, a)| *c = add(c, &a));
        }
        c
    }

    /// A rounding of the sum of the terms' magnitudes, and where GELU follows, the bound of Phi.
    fn floor(&self, x: &[f32]) -> f64 {
        let largest = |c: Rows<f64>| c.iter().flatten().fold(0.0, |a: f64, x| a.max(x.abs()));
        let wide = |x: &f32| f64::from(*x);
        let magnitude = largest(self.before_activation(&x.iter().map(|x| wide(x).abs()).collect::<Vec<_>>()));
        let value = largest(self.before_activation(&x.iter().map(wide).collect::<Vec<_>>()));
        ULP * magnitude + if self.then == Then::Nothing { 0.0 } else { 3e-7 * value.max(1.0) }
    }
}

/// C, and GELU's slope where the case wants it.
impl Operation for Case {
    fn naive<R: Real>(&self, x: &[R]) -> Vec<R> {
        let c = self.before_activation(x).concat();
        let density = |x: R| (R::of(-0.5) * x * x).exp() / R::of(std::f64::consts::TAU.sqrt());
        let slope = |&x: &R| x.normal_cdf() + x * density(x);
        match self.then {
            Then::Nothing => c,
            Then::Gelu => c.iter().map(|&x| gelu(x)).collect(),
            Then::GeluWithSlope => c.iter().map(|&x| gelu(x)).chain(c.iter().map(slope)).collect(),
        }
    }
}

/// A matrix with NaN between its rows.
fn spread(x: &[f32], columns: usize, gap: usize) -> Vec<f32> {
    let mut all: Vec<f32> =
        x.chunks(columns.max(1)).flat_map(|row| row.iter().copied().chain(vec![f32::NAN; gap])).collect();
    all.truncate(all.len().saturating_sub(gap));
    all
}

fn transposed(x: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| x.iter().skip(j).step_by(columns).copied()).collect()
}

/// A row of L in `dtype` and back: int8 with a scale and a zero for each part of at most 64 words of four.
fn round_left(isa: Isa, dtype: Dtype, row: &mut [f32]) {
    if dtype != Dtype::Int8 {
        row.copy_from_slice(&rounded(isa, dtype, row));
        return;
    }
    let words = row.len().div_ceil(4);
    let parts = words.div_ceil(64).max(1);
    assert!(words.is_multiple_of(parts), "an uneven part");
    for part in row.chunks_mut((4 * words / parts).max(1)) {
        let low = part.iter().fold(0.0f32, |low, x| low.min(*x));
        let high = part.iter().fold(0.0f32, |high, x| high.max(*x));
        let inverse = 255.0 / (high - low);
        let zero = (-low * inverse).round_ties_even();
        for x in part.iter_mut().filter(|_| high > low) {
            let number = ((*x * inverse).round_ties_even() + zero).min(255.0);
            *x = (number - zero) * ((high - low) / 255.0);
        }
    }
}

/// Values that share a scale, in `dtype` and back.
fn rounded(isa: Isa, dtype: Dtype, x: &[f32]) -> Vec<f32> {
    let scale = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / isa.int8_max();
    let of = |x: &f32| match dtype {
        Dtype::F32 => *x,
        Dtype::Bf16 => bf16::from_f32(*x).to_f32(),
        Dtype::Int8 if scale == 0.0 => 0.0,
        Dtype::Int8 => (x / scale).round_ties_even() * scale,
    };
    x.iter().map(of).collect()
}

/// Memory of which a matrix is a part.
struct Guarded {
    memory: Vec<f32>,
    n: usize,
    stride: usize,
}

impl Guarded {
    const ZONE: usize = 67;
    const SENTINEL: f32 = 12345.678;

    fn new(case: &Case, content: &[f32]) -> Guarded {
        let (n, stride) = (case.n, case.n + case.gap);
        let mut memory = vec![Self::SENTINEL; 2 * Self::ZONE + (case.m - 1) * stride + n];
        for (row, values) in memory[Self::ZONE..].chunks_mut(stride).zip(content.chunks(n)) {
            row[..n].copy_from_slice(values);
        }
        Guarded { memory, n, stride }
    }

    /// What a kernel is given: it starts at the matrix and is longer than it needs.
    fn slice(&mut self) -> &mut [f32] {
        &mut self.memory[Self::ZONE..]
    }

    #[track_caller]
    fn content(&self, case: &Case) -> Vec<f32> {
        let mut guards = self.memory.clone();
        let mut content = Vec::new();
        for row in guards[Self::ZONE..].chunks_mut(self.stride).take(case.m) {
            content.extend_from_slice(&row[..self.n]);
            row[..self.n].fill(Self::SENTINEL);
        }
        assert!(guards.iter().all(|&x| x == Self::SENTINEL), "{case:?}: a write outside the matrix");
        content
    }
}

#[track_caller]
fn run(isa: Isa, case: &Case, x: &[f32]) -> Vec<f32> {
    let n = case.n;
    let operands = case.operands(x);
    let (pairs, [bias, addend]) = operands.split_last_chunk().unwrap();
    let of_terms: Vec<_> = pairs
        .chunks_exact(2)
        .zip(case.factors())
        .enumerate()
        .map(|(i, (pair, t))| {
            let dtype = if i == 0 { case.dtype } else { Dtype::F32 };
            let left = match t.transposed {
                true => spread(&transposed(pair[0], t.k), case.m, t.gap),
                false => spread(pair[0], t.k, t.gap),
            };
            let packed = t.packed.then(|| Packed::new(isa, dtype, t.k, n, |k, j| pair[1][k * n + j]));
            (t, left, packed, spread(pair[1], n, t.gap))
        })
        .collect();
    let terms: Vec<Term> = of_terms
        .iter()
        .map(|(t, left, packed, right)| {
            let right = match packed {
                Some(p) => Right::Packed(p),
                None => Right::Rows { data: right, stride: n + t.gap },
            };
            match t.transposed {
                true => Term::transposed(left, case.m + t.gap, t.k, right),
                false => Term::new(left, t.k + t.gap, t.k, right),
            }
        })
        .collect();
    let mut out = match case.added {
        Added::Itself => Guarded::new(case, addend),
        _ => Guarded::new(case, &vec![f32::NAN; case.m * n]),
    };
    let mut slope = Guarded::new(case, &vec![f32::NAN; case.m * n]);
    let (spread_addend, stride) = (spread(addend, n, 3), out.stride);
    let g = Gemm {
        m: case.m,
        n,
        terms: &terms,
        bias: case.bias.then_some(bias),
        addend: match case.added {
            Added::Nothing => Addend::Nothing,
            Added::Itself => Addend::Itself,
            Added::Rows => Addend::Rows { data: &spread_addend, stride: n + 3 },
        },
        activation: match case.then {
            Then::Nothing => Activation::Identity,
            Then::Gelu => Activation::Gelu,
            Then::GeluWithSlope => Activation::GeluWithSlope { slope: slope.slice() },
        },
    };
    gemm(isa, g, out.slice(), stride);
    let mut all = out.content(case);
    let slope = slope.content(case);
    if case.then == Then::GeluWithSlope {
        all.extend(slope);
    }
    all
}

fn cases() -> Vec<(Case, Vec<f32>)> {
    let mut random = Random::new(2);
    let shapes = ROWS.iter().flat_map(|&m| WIDTHS.map(|n| (m, n)));
    let mut case = |(m, n)| {
        let case = Case::random(&mut random, m, n);
        let x = random.values(case.lengths().iter().sum());
        (case, x)
    };
    shapes.flat_map(|shape| [shape; 8]).map(&mut case).collect()
}

#[test]
fn products_are_those_of_the_oracle() {
    for (case, x) in cases() {
        let (oracle, floor) = (Oracle::forward(&case, &x), case.floor(&x));
        for &isa in Isa::available() {
            oracle.check(format!("gemm on {}, {case:?}", isa.name()), &run(isa, &case, &x), floor);
        }
    }
}

#[test]
fn products_of_low_precision_are_those_of_rounded_operands() {
    for (case, x) in cases() {
        for dtype in [Dtype::Bf16, Dtype::Int8] {
            let case = case.with_dtype(dtype);
            for &isa in Isa::available() {
                let x = case.rounded(isa, &x);
                let oracle = Oracle::forward(&case, &x);
                let name = format!("gemm on {}, {case:?}", isa.name());
                oracle.check(name, &run(isa, &case, &x), case.floor(&x));
            }
        }
    }
}

/// The largest numbers on both sides, of both signs: the products of neighbours are added in as few bits as may be.
#[test]
fn the_largest_of_int8_do_not_overflow() {
    let (m, k, n) = (2, 100, 17);
    let case = Case::plain(m, k, n).with_dtype(Dtype::Int8);
    let left = (0..m * k).map(|i| if i < k { 1.0 } else { -1.0 });
    let right = (0..k * n).map(|i| if i % n % 2 == 0 { 1.0 } else { -1.0 });
    let x: Vec<f32> = left.chain(right).chain(vec![0.0; n + m * n]).collect();
    for &isa in Isa::available() {
        for (i, y) in run(isa, &case, &x).iter().enumerate() {
            let sign = if (i / n + i % n).is_multiple_of(2) { 1.0 } else { -1.0 };
            assert!((y - sign * k as f32).abs() < 1e-3, "{y} at {i} on {}", isa.name());
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let case = Case { bias: true, ..Case::plain(3, 97, 40) };
    let mut x = Random::new(3).values(case.lengths().iter().sum());
    x[97 + 50] = f32::NAN;
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
        for &isa in Isa::available() {
            let found = run(isa, &case.with_dtype(dtype), &x);
            for (i, row) in found.chunks(case.n).enumerate() {
                assert!(row.iter().all(|y| y.is_nan() == (i == 1)), "{dtype:?} on {}", isa.name());
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let dtypes = [Dtype::F32, Dtype::Bf16, Dtype::Int8];
    let with_dtype = |(case, x): (Case, Vec<f32>)| {
        dtypes.map(|d| (if d == Dtype::F32 { case } else { case.with_dtype(d) }, x.clone()))
    };
    for (case, x) in cases().into_iter().flat_map(with_dtype) {
        let alone = Case { m: 1, ..case };
        for &isa in Isa::available() {
            let all = run(isa, &case, &x);
            for i in [0, 1, case.m / 2, case.m - 1].into_iter().filter(|&i| i < case.m) {
                let row = |x: &[f32], width: usize| x[i * width..(i + 1) * width].to_vec();
                let operands = case.operands(&x);
                let (pairs, [bias, addend]) = operands.split_last_chunk().unwrap();
                let of_terms = pairs.chunks_exact(2).zip(case.factors());
                let mut x: Vec<f32> =
                    of_terms.flat_map(|(pair, t)| [row(pair[0], t.k), pair[1].to_vec()].concat()).collect();
                x.extend_from_slice(bias);
                x.extend(row(addend, case.n));
                let expected: Vec<f32> =
                    all.chunks_exact(case.m * case.n).flat_map(|c| row(c, case.n)).collect();
                assert_eq!(
                    bits(&run(isa, &alone, &x)),
                    bits(&expected),
                    "row {i} on {}, {case:?}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn no_rows_and_no_columns_touch_nothing() {
    for &isa in Isa::available() {
        let mut out = [1.0; 3];
        let right = Right::Rows { data: &[2.0; 4], stride: 2 };
        gemm(isa, Gemm::plain(0, 2, &[Term::new(&[], 2, 2, right)]), &mut out, 2);
        gemm(isa, Gemm::plain(1, 0, &[Term::new(&[1.0; 2], 2, 2, right)]), &mut out, 2);
        assert_eq!(out, [1.0; 3]);
    }
}

/// (3 - 1) 2^63 is 0 in 64 bits.
#[test]
fn strides_that_wrap_around_are_refused() {
    let far = 1 << 63;
    let refused = |term: Term<'_>, stride: usize| {
        let product = || gemm(Isa::available()[0], Gemm::plain(3, 2, &[term]), &mut [0.0; 6], stride);
        std::panic::catch_unwind(product).is_err()
    };
    let rows = |stride| Right::Rows { data: &[1.0; 6], stride };
    let near = Term::new(&[1.0; 9], 3, 3, rows(2));
    assert!(!refused(near, 2));
    assert!(refused(near, far), "C");
    assert!(refused(Term { row_stride: far, ..near }, 2), "the rows of L");
    assert!(refused(Term { k_stride: far, ..near }, 2), "the columns of L");
    assert!(refused(Term { right: rows(far), ..near }, 2), "R");
}

#[test]
#[should_panic(expected = "packed for another instruction set")]
fn what_another_set_packed_is_refused() {
    let (isa, other) = (Isa::available()[0], Isa::available()[Isa::available().len() - 1]);
    // Where there is but one set, nothing can go wrong.
    assert!(isa != other, "packed for another instruction set: there is none");
    let packed = Packed::new(other, Dtype::F32, 1000, 17, |_, _| 1.0);
    let left = vec![1.0; 1000];
    let terms = [Term::new(&left, 1000, 1000, Right::Packed(&packed))];
    gemm(isa, Gemm::plain(1, 17, &terms), &mut [0.0; 17], 17);
}
