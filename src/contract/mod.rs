//! The contract of Rust and WGSL: structs of words that one writes and the other reads, and the bindings of each kernel.
//!
//! Both are declared once, in Rust ([`words!`](crate::words), [`bindings!`](crate::bindings)). The step's constants in WGSL
//! are written from here; all else is compared with what the shaders declare.

mod bindings;
mod step;

#[cfg(not(feature = "conformance"))]
pub(crate) use bindings::bindings;
pub use bindings::{Bindings, Field, Kind};
pub use step::{STEP, StepHeader, StepRow, StepSealing, StepSpan, StepTile};

/// The type of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `u32`.
    U32,
    /// `i32`.
    I32,
    /// `f32`.
    F32,
}

/// One word of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, in Rust and in WGSL.
    pub name: &'static str,
    /// Bytes from the struct's beginning.
    pub offset: u32,
    /// Its type.
    pub scalar: Scalar,
}

/// A type that is one word in WGSL too.
pub trait Word {
    /// Its name there.
    const SCALAR: Scalar;
}

impl Word for u32 {
    const SCALAR: Scalar = Scalar::U32;
}

impl Word for i32 {
    const SCALAR: Scalar = Scalar::I32;
}

impl Word for f32 {
    const SCALAR: Scalar = Scalar::F32;
}

/// Words of a uniform buffer: as many as the largest parameters have, in whole sixteens of bytes, as WGSL wants such structs.
pub const UNIFORM_WORDS: usize = 16;

/// A struct of words, as [`words!`](crate::words) declares it.
pub trait Words: bytemuck::Pod {
    /// Its members, in order.
    const MEMBERS: &'static [Member];

    /// How many words it has.
    const COUNT: usize = Self::MEMBERS.len();

    /// Its words.
    fn words(&self) -> &[u32] {
        bytemuck::cast_slice(std::slice::from_ref(self))
    }

    /// Its words, filled up with zeros to those of a uniform buffer.
    fn padded(&self) -> [u32; UNIFORM_WORDS] {
        let mut words = [0; UNIFORM_WORDS];
        words[..Self::COUNT].copy_from_slice(self.words());
        words
    }
}

/// Declares structs that shaders read: members of one word each, with the names that they have in WGSL.
#[cfg_attr(feature = "conformance", macro_export)]
macro_rules! words {
    ($(
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$member_meta:meta])* pub $member:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        $visibility struct $name {
            $($(#[$member_meta])* pub $member: $type,)*
        }

        impl $crate::contract::Words for $name {
            const MEMBERS: &'static [$crate::contract::Member] = &[$(
                $crate::contract::Member {
                    name: stringify!($member),
                    offset: std::mem::offset_of!($name, $member) as u32,
                    scalar: <$type as $crate::contract::Word>::SCALAR,
                },
            )*];
        }
    )*};
}

#[cfg(not(feature = "conformance"))]
pub(crate) use words;
