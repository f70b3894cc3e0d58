//! The instruction sets that the kernels exist for, and the choice among them at run time.

#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;
use std::sync::OnceLock;

use crate::device::Dtype;
use crate::{Error, Result};

/// An instruction set that this CPU has: a value exists only where it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Set {
    Avx512,
    Avx2,
    Portable,
}

/// The environment variable that forces an instruction set, for tests and comparisons.
pub const ISA_VARIABLE: &str = "LORB_ISA";

impl Isa {
    /// The best set of this CPU, or the one that `LORB_ISA` names (avx512, avx2, portable).
    ///
    /// # Errors
    /// [`Error::Usage`] where the variable names no set or one that this CPU lacks.
    pub fn detect() -> Result<Isa> {
        let best = Isa::available()[0];
        let Some(name) = std::env::var_os(ISA_VARIABLE) else { return Ok(best) };
        let name = name.to_string_lossy();
        let known = [Set::Avx512, Set::Avx2, Set::Portable].map(Isa);
        match known.into_iter().find(|i| i.name() == name) {
            Some(isa) if Isa::available().contains(&isa) => Ok(isa),
            Some(isa) => Err(Error::Usage(format!(
                "{ISA_VARIABLE}={}: this CPU lacks it; the best that it has is {}",
                isa.name(),
                best.name()
            ))),
            None => Err(Error::Usage(format!(
                "{ISA_VARIABLE}={name}: expected avx512, avx2 or portable; unset it to use the best"
            ))),
        }
    }

    /// Every set of this CPU, best first; the last is always the portable one.
    pub fn available() -> &'static [Isa] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let mut sets = Vec::new();
            #[cfg(target_arch = "x86_64")]
            {
                let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                if fma && is_x86_feature_detected!("avx512f") {
                    sets.push(Isa(Set::Avx512));
                }
                if fma {
                    sets.push(Isa(Set::Avx2));
                }
            }
            sets.push(Isa(Set::Portable));
            sets
        })
    }

    /// As in `LORB_ISA`, in checkpoints and in messages.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Avx512 => "avx512",
            Set::Avx2 => "avx2",
            Set::Portable => "portable",
        }
    }

    /// Whether operands of this type are multiplied as they are; others become f32 first. AVX2 multiplies int8; the sets
    /// with 512 bits have instructions for bf16 (AVX512-BF16) and int8 (AVX512-VNNI) on some CPUs, and on some of
    /// those that for bf16 is slower than f32's.
    pub fn multiplies(self, dtype: Dtype) -> bool {
        match (self.0, dtype) {
            (_, Dtype::F32) => true,
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512, Dtype::Bf16) => is_x86_feature_detected!("avx512bf16") && !*MULTIPLIES_BF16_SLOWLY,
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512, Dtype::Int8) => is_x86_feature_detected!("avx512vnni"),
            (Set::Avx2, Dtype::Int8) => true,
            _ => false,
        }
    }

    /// The largest magnitude of a weight as int8; ranges are symmetric. AVX2 adds two products in 16 bits, and
    /// 2 * 255 * 64 is the most that they hold.
    pub fn int8_max(self) -> f32 {
        match self.0 {
            Set::Avx2 => 64.0,
            Set::Avx512 | Set::Portable => 127.0,
        }
    }

    #[doc(hidden)]
    pub fn set(self) -> Set {
        self.0
    }
}

/// Whether VDPBF16PS is slower than as many multiply-adds of f32: on Intel's Xeons since Sapphire Rapids, which have
/// AVX512-FP16 too. There it starts every other cycle, two f32 ones every cycle (measured: 84 and 178 GFLOP/s); on AMD's
/// Zen 4 it makes twice f32's. By the CPU's name and not by a clock, so that a machine always computes the same bits.
/// Each product asks, and in a virtual machine CPUID takes as long as a small one.
#[cfg(target_arch = "x86_64")]
static MULTIPLIES_BF16_SLOWLY: LazyLock<bool> = LazyLock::new(|| {
    #[allow(unused_unsafe, reason = "later versions of Rust have it safe")]
    // SAFETY: every CPU of x86-64 has CPUID.
    let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
    let is_intel = (vendor.ebx, vendor.edx, vendor.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e);
    is_intel && is_x86_feature_detected!("avx512fp16")
});

/// Compiles a generic kernel once per instruction set and declares the function that picks one.
///
/// `kernel!(pub fn name(args) = body;)` makes `unsafe fn name(isa, args)`, which calls
/// `body::<V>(args)` with `V` the vector type of `isa`. Its safety is that of `body`.
#[macro_export]
#[doc(hidden)]
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident;) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::device::cpu::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            unsafe fn avx512($($arg: $ty),*) {
                use $crate::device::cpu::simd::Avx512 as V;
                // SAFETY: the caller's contract is the body's.
                unsafe { $body::<V>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $ty),*) {
                use $crate::device::cpu::simd::Avx2 as V;
                // SAFETY: the caller's contract is the body's.
                unsafe { $body::<V>($($arg),*) }
            }
            // SAFETY: `isa` is available, and the caller's contract is the body's.
            unsafe {
                match isa.set() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::isa::Set::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::isa::Set::Avx2 => avx2($($arg),*),
                    _ => $body::<$crate::device::cpu::simd::Portable>($($arg),*),
                }
            }
        }
    };
}
