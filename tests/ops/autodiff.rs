//! Numbers that the naive forms are written over: f32, f64, and either of them with a record of how it was
//! computed, from which the derivatives of a naive form follow without a second formula to get wrong.

use std::cell::RefCell;
use std::fmt::Debug;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A real number of some precision.
pub trait Real:
    Copy
    + Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    fn of(x: f64) -> Self;
    fn value(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
    /// Phi(x).
    fn normal_cdf(self) -> Self;
}

macro_rules! real {
    ($float:ident, $tanh:expr) => {
        impl Real for $float {
            fn of(x: f64) -> Self {
                x as $float
            }
            fn value(self) -> f64 {
                self.into()
            }
            fn exp(self) -> Self {
                $float::exp(self)
            }
            fn ln(self) -> Self {
                $float::ln(self)
            }
            fn sqrt(self) -> Self {
                $float::sqrt(self)
            }
            fn tanh(self) -> Self {
                $tanh(self)
            }
            fn normal_cdf(self) -> Self {
                // Phi(x) = 1/2 + phi(x) (x + x^3 / 3 + x^5 / (3 5) + ...) (Marsaglia 2004).
                if self.abs() > 9.0 {
                    return (self > 0.0).into();
                }
                let (mut sum, mut term, mut k) = (self, self, 1.0);
                while term.abs() > $float::EPSILON / 10.0 * sum.abs() {
                    k += 2.0;
                    term *= self * self / k;
                    sum += term;
                }
                0.5 + sum * density(self.into()) as $float
            }
        }
    };
}
// The plain form, which loses where x is small: about the 2e-7 that the kernels promise.
real!(f32, |x: f32| 1.0 - 2.0 / ((x + x).exp() + 1.0));
real!(f64, f64::tanh);

fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}

/// What was computed, in order: for each result, its one or two operands and the derivatives by them.
struct Record<R>(RefCell<Vec<[(u32, R); 2]>>);

/// The operand that is not there.
const NONE: u32 = u32::MAX;

/// A number that knows how it came about; a constant where it has no record.
#[derive(Clone, Copy)]
pub struct Ad<'r, R> {
    value: R,
    place: Option<(&'r Record<R>, u32)>,
}

impl<R: Real> Debug for Ad<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.value.fmt(f)
    }
}

impl<'r, R: Real> Ad<'r, R> {
    fn push(record: &'r Record<R>, value: R, operands: [(u32, R); 2]) -> Self {
        let mut all = record.0.borrow_mut();
        all.push(operands);
        Ad { value, place: Some((record, all.len() as u32 - 1)) }
    }

    fn unary(self, value: R, derivative: R) -> Self {
        match self.place {
            None => Ad { value, place: None },
            Some((record, at)) => Self::push(record, value, [(at, derivative), (NONE, R::of(0.0))]),
        }
    }

    fn binary(self, other: Self, value: R, by_self: R, by_other: R) -> Self {
        let Some((record, _)) = self.place.or(other.place) else { return Ad { value, place: None } };
        let at = |x: Self| x.place.map_or(NONE, |(_, at)| at);
        Self::push(record, value, [(at(self), by_self), (at(other), by_other)])
    }
}

impl<R: Real> Add for Ad<'_, R> {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        self.binary(o, self.value + o.value, R::of(1.0), R::of(1.0))
    }
}
impl<R: Real> Sub for Ad<'_, R> {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        self.binary(o, self.value - o.value, R::of(1.0), R::of(-1.0))
    }
}
impl<R: Real> Mul for Ad<'_, R> {
    type Output = Self;
    fn mul(self, o: Self) -> Self {
        self.binary(o, self.value * o.value, o.value, self.value)
    }
}
impl<R: Real> Div for Ad<'_, R> {
    type Output = Self;
    fn div(self, o: Self) -> Self {
        let y = self.value / o.value;
        self.binary(o, y, R::of(1.0) / o.value, -y / o.value)
    }
}
impl<R: Real> Neg for Ad<'_, R> {
    type Output = Self;
    fn neg(self) -> Self {
        self.unary(-self.value, R::of(-1.0))
    }
}
impl<R: Real> Real for Ad<'_, R> {
    fn of(x: f64) -> Self {
        Ad { value: R::of(x), place: None }
    }
    fn value(self) -> f64 {
        self.value.value()
    }
    fn exp(self) -> Self {
        let y = self.value.exp();
        self.unary(y, y)
    }
    fn ln(self) -> Self {
        self.unary(self.value.ln(), R::of(1.0) / self.value)
    }
    fn sqrt(self) -> Self {
        let y = self.value.sqrt();
        self.unary(y, R::of(0.5) / y)
    }
    fn tanh(self) -> Self {
        let y = self.value.tanh();
        self.unary(y, R::of(1.0) - y * y)
    }
    fn normal_cdf(self) -> Self {
        self.unary(self.value.normal_cdf(), R::of(density(self.value.value())))
    }
}

/// An operation in its naive form.
pub trait Operation {
    /// Its outputs, of everything that it can be differentiated by.
    fn naive<R: Real>(&self, x: &[R]) -> Vec<R>;
}

/// dL/dx for dL/dy = `dy`, with all arithmetic in R.
pub fn pull_back<R: Real>(op: &impl Operation, x: &[f32], dy: &[f32]) -> Vec<R> {
    let record = Record(RefCell::default());
    let variable = |&x: &f32| Ad::push(&record, R::of(x.into()), [(NONE, R::of(0.0)), (NONE, R::of(0.0))]);
    let inputs: Vec<_> = x.iter().map(variable).collect();
    let y = op.naive(&inputs);
    assert_eq!(y.len(), dy.len(), "one dy per output");
    let steps = record.0.borrow();
    let mut gradients = vec![R::of(0.0); steps.len()];
    for (y, &d) in y.iter().zip(dy) {
        if let Some((_, at)) = y.place {
            gradients[at as usize] = gradients[at as usize] + R::of(d.into());
        }
    }
    for (i, operands) in steps.iter().enumerate().rev() {
        for &(at, derivative) in operands.iter().filter(|(at, _)| *at != NONE) {
            gradients[at as usize] = gradients[at as usize] + gradients[i] * derivative;
        }
    }
    gradients.truncate(x.len());
    gradients
}

/// dL/dx_i for dL/dy = `dy` by central differences of the naive form in f64, to about 1e-10.
pub fn central_difference(op: &impl Operation, x: &[f32], dy: &[f32], i: usize) -> f64 {
    let mut x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let (at, h) = (x[i], 3e-4);
    let mut loss = |steps: f64| -> f64 {
        x[i] = at + steps * h;
        op.naive(&x).iter().zip(dy).map(|(y, &d)| y * f64::from(d)).sum()
    };
    // The error of two differences, of steps h and 2 h, cancels to the order h^4.
    (8.0 * (loss(1.0) - loss(-1.0)) - (loss(2.0) - loss(-2.0))) / (12.0 * h)
}
