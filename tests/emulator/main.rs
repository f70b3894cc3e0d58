//! The emulator finds the bugs that were planted for it, whatever the order of the threads, and lets pass what
//! is right; and the twins of the primitives do what the PTX ISA says.

mod copies;
mod early;
mod fragments;
mod hopper;
mod memory;
mod run;
mod waiting;
