//! How far results of two devices may lie apart.

use crate::device::cuda::Precision;
use crate::{Error, Result};

/// A result of an operation.
pub struct Output {
    name: &'static str,
    values: Vec<f32>,
    bound: Bound,
}

impl Output {
    pub fn new(name: &'static str, values: Vec<f32>, bound: Bound) -> Output {
        Output { name, values, bound }
    }
}

/// What its elements may differ by.
#[derive(Clone, Copy)]
pub enum Bound {
    /// Nothing: they are copies.
    Same,
    /// The roundings of their sums and of what is kept.
    Rounded {
        /// Terms of the longest sum on the way to an element.
        terms: usize,
        /// How many values on the way are kept in the device's precision.
        kept: u32,
        /// Whether the result is.
        stored: bool,
    },
}

impl Bound {
    /// A result that is a sum of `terms` and kept in the device's precision.
    pub fn sum(terms: usize) -> Bound {
        Bound::Rounded { terms, kept: 0, stored: true }
    }

    /// The same after `kept` others that are kept so.
    pub fn after(self, kept: u32) -> Bound {
        match self {
            Bound::Rounded { terms, stored, .. } => Bound::Rounded { terms, kept, stored },
            Bound::Same => self,
        }
    }

    /// The same, kept in f32.
    pub fn in_f32(self) -> Bound {
        match self {
            Bound::Rounded { terms, kept, .. } => Bound::Rounded { terms, kept, stored: false },
            Bound::Same => self,
        }
    }

    /// As shares of the largest element, and of the element itself.
    ///
    /// A sum of n terms is off by up to a step (2^-23) of a partial sum for each: they add as a random walk
    /// does, so by sqrt(n) steps, and the worst of a million elements is some five times the usual one. The
    /// largest element is as far above the usual one, so that twice as many steps of it will do; 16 are for
    /// exp, erf, tanh and roots. Tensor cores cut off what they add, 16 terms at a time: that does not average
    /// out, and is 2^-22 of the sum each time. A rounding to bf16 is off by 2^-8 of the number at most: that
    /// of the element is a share of the element, and those of what it was made from average out in its sum to
    /// less than one of the largest element.
    fn shares(self, precision: Precision) -> (f64, f64) {
        let Bound::Rounded { terms, kept, stored } = self else { return (0.0, 0.0) };
        let sums = (16.0 + 2.0 * (terms as f64).sqrt()) * f64::from(f32::EPSILON);
        match precision {
            Precision::F32 => (sums, 0.0),
            Precision::Bf16 => {
                let cut_off = (terms / 16) as f64 / f64::from(1 << 22);
                let rounding = 1.0 / 256.0;
                (sums + cut_off + f64::from(kept) * rounding, if stored { rounding } else { 0.0 })
            }
        }
    }
}

/// Refuses a second run that gave other bits than the first.
pub fn repeats(first: &[Output], second: &[Output]) -> Result<()> {
    for (a, b) in first.iter().zip(second) {
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        if let Some(at) = a.values.iter().zip(&b.values).position(differs) {
            let (name, a, b) = (a.name, a.values[at], b.values[at]);
            return Err(Error::Device(format!("{name}, element {at}: two runs gave {a} and {b}")));
        }
    }
    Ok(())
}

/// The largest difference, as a part of what it may be.
///
/// # Errors
/// [`Error::Device`] where that is more than 1, with the first such element.
pub fn off(precision: Precision, computed: &[Output], expected: &[Output]) -> Result<f64> {
    assert_eq!(computed.len(), expected.len(), "the devices give as many results");
    let mut worst = 0.0f64;
    for (computed, Output { name, values, bound }) in computed.iter().zip(expected) {
        assert_eq!(computed.values.len(), values.len(), "{name}: the devices give as many values");
        let largest = values.iter().fold(0.0f64, |m, &x| m.max(x.abs().into()));
        let (of_largest, of_element) = bound.shares(precision);
        for (at, (&a, &e)) in computed.values.iter().zip(values).enumerate() {
            let difference = f64::from(a) - f64::from(e);
            let allowed = largest * of_largest + f64::from(e.abs()) * of_element;
            let off = if difference == 0.0 { 0.0 } else { difference.abs() / allowed };
            if off.is_nan() || off > 1.0 {
                return Err(Error::Device(format!("{name}, element {at}: {a}, and {e} on the CPU")));
            }
            worst = worst.max(off);
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(values: &[f32], bound: Bound) -> Vec<Output> {
        vec![Output::new("y", values.to_vec(), bound)]
    }

    #[test]
    fn roundings_pass_and_errors_do_not() {
        let off = |a: &[f32], e: &[f32], bound| off(Precision::Bf16, &outputs(a, bound), &outputs(e, bound));
        let bound = Bound::sum(64);
        assert_eq!(off(&[1.0, 0.01], &[1.0, 0.01], bound).unwrap(), 0.0);
        assert!(off(&[1.003, 0.01], &[1.0, 0.01], bound).unwrap() > 0.5);
        for (wrong, bound) in [
            ([1.01, 0.01], bound),
            ([1.0, 0.011], bound),
            ([f32::NAN, 0.01], bound),
            ([1.003, 0.01], bound.in_f32()),
            ([1.0, 0.010_000_001], Bound::Same),
        ] {
            assert!(off(&wrong, &[1.0, 0.01], bound).is_err(), "{wrong:?}");
        }
        assert!(off(&[1.0, 0.011], &[1.0, 0.01], bound.after(1)).is_ok());
    }

    #[test]
    fn other_bits_are_no_repeat() {
        let run = |x: f32| outputs(&[1.0, x], Bound::Same);
        assert!(repeats(&run(0.5), &run(0.5)).is_ok() && repeats(&run(f32::NAN), &run(f32::NAN)).is_ok());
        assert!(repeats(&run(0.0), &run(-0.0)).unwrap_err().to_string().contains("element 1"));
    }
}
