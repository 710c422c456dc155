//! The bindings of a kernel, by the names of its WGSL variables.

use super::Member;

/// The kind of a variable, as it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
    /// `var<uniform>`, with the members of what it holds.
    Uniform(&'static [Member]),
}

/// One binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The variable's name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Whether only some variants of the kernel have it.
    pub is_optional: bool,
}

/// A struct with a value for each binding of a kernel, as [`bindings!`](crate::bindings) declares it.
pub trait Bindings: Sized {
    /// The bound value, or a number that stands for it.
    type Value;
    /// The same struct of other values.
    type Of<T>: Bindings<Value = T>;

    /// Every binding that some variant has.
    const FIELDS: &'static [Field];

    /// Makes another value of each that is there.
    fn map<T>(self, change: impl FnMut(&'static str, Self::Value) -> T) -> Self::Of<T>;

    /// Names and values of those that are there.
    fn named(self) -> Vec<(&'static str, Self::Value)> {
        let mut all = Vec::new();
        self.map(|name, value| all.push((name, value)));
        all
    }
}

/// Declares the bindings of kernels: a struct with a field for each variable, named as it is in WGSL.
///
/// A field is `read`, `write` or `uniform` and the struct that it holds ([`words!`](crate::words)); `optional` comes first
/// where only some variants of the kernel have it.
///
/// ```
/// use asynctls::contract::Bindings;
/// asynctls::words! {
///     /// Sizes.
///     pub struct Sizes {
///         /// Numbers.
///         pub count: u32,
///     }
/// }
/// asynctls::bindings! {
///     /// Of a kernel that adds two vectors.
///     pub struct Sum {
///         /// How many.
///         sizes: uniform Sizes,
///         /// \[count\]
///         x: read,
///         /// \[count\], where there is a second one.
///         z: optional read,
///         /// \[count\]
///         y: write,
///     }
/// }
/// let sum = Sum { sizes: 1, x: 2, z: None, y: 3 };
/// assert_eq!(sum.named(), [("sizes", 1), ("x", 2), ("y", 3)]);
/// ```
#[cfg_attr(feature = "conformance", macro_export)]
macro_rules! bindings {
    (@type $value:ident optional $($kind:ident)+) => { Option<$value> };
    (@type $value:ident $($kind:ident)+) => { $value };

    (@field $field:ident optional $($kind:ident)+) => {
        $crate::contract::Field {
            name: stringify!($field),
            kind: $crate::bindings!(@kind $($kind)+),
            is_optional: true,
        }
    };
    (@field $field:ident $($kind:ident)+) => {
        $crate::contract::Field {
            name: stringify!($field),
            kind: $crate::bindings!(@kind $($kind)+),
            is_optional: false,
        }
    };

    (@kind read) => { $crate::contract::Kind::Read };
    (@kind write) => { $crate::contract::Kind::Write };
    (@kind uniform $words:ident) => {
        $crate::contract::Kind::Uniform(<$words as $crate::contract::Words>::MEMBERS)
    };

    (@map $change:ident $field:ident $value:expr, optional $($kind:ident)+) => {
        $value.map(|value| $change(stringify!($field), value))
    };
    (@map $change:ident $field:ident $value:expr, $($kind:ident)+) => {
        $change(stringify!($field), $value)
    };

    ($(
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident: $($kind:ident)+,)*
        }
    )*) => {$(
        $(#[$meta])*
        $visibility struct $name<B> {
            $($(#[$field_meta])* pub $field: $crate::bindings!(@type B $($kind)+),)*
        }

        impl<B: Clone> Clone for $name<B> {
            fn clone(&self) -> Self {
                Self { $($field: self.$field.clone(),)* }
            }
        }

        impl<B> $crate::contract::Bindings for $name<B> {
            type Value = B;
            type Of<T> = $name<T>;

            const FIELDS: &'static [$crate::contract::Field] =
                &[$($crate::bindings!(@field $field $($kind)+),)*];

            fn map<T>(self, mut change: impl FnMut(&'static str, B) -> T) -> $name<T> {
                $name { $($field: $crate::bindings!(@map change $field self.$field, $($kind)+),)* }
            }
        }
    )*};
}

#[cfg(not(feature = "conformance"))]
pub(crate) use bindings;
