//! The bindings of a shader's module.

use crate::contract::{Field, Kind, Scalar};

/// One binding of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reflected {
    /// The variable's name.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// How it is declared.
    pub access: Access,
    /// Bytes of its type, with one element of an array whose length is that of the buffer.
    pub bytes: u64,
}

/// How a variable is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
    /// `var<uniform>`: name, offset and type of each member, where it is a struct of words.
    Uniform(Vec<(String, u32, Scalar)>),
}

/// The bindings of a module, in ascending order of their numbers.
pub(super) fn reflect(module: &naga::Module) -> Vec<Reflected> {
    let mut all: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let access = match variable.space {
                naga::AddressSpace::Uniform => Access::Uniform(members(module, variable.ty)),
                naga::AddressSpace::Storage { access } => {
                    let writes = access.contains(naga::StorageAccess::STORE);
                    if writes { Access::Write } else { Access::Read }
                }
                _ => return None,
            };
            Some(Reflected {
                name: variable.name.clone().unwrap_or_default(),
                number: variable.binding.as_ref()?.binding,
                access,
                bytes: module.types[variable.ty].inner.size(module.to_ctx()).into(),
            })
        })
        .collect();
    all.sort_by_key(|binding| binding.number);
    all
}

fn members(module: &naga::Module, ty: naga::Handle<naga::Type>) -> Vec<(String, u32, Scalar)> {
    let naga::TypeInner::Struct { members, .. } = &module.types[ty].inner else {
        return Vec::new();
    };
    let word = |member: &naga::StructMember| {
        let scalar = match module.types[member.ty].inner {
            naga::TypeInner::Scalar(naga::Scalar::U32) => Scalar::U32,
            naga::TypeInner::Scalar(naga::Scalar::I32) => Scalar::I32,
            naga::TypeInner::Scalar(naga::Scalar::F32) => Scalar::F32,
            _ => return None,
        };
        Some((member.name.clone().unwrap_or_default(), member.offset, scalar))
    };
    members.iter().map_while(word).collect()
}

/// How a struct's fields differ from the bindings of one variant of its kernel, if they do. A shader may declare fewer members
/// of a uniform's struct, the first ones.
pub fn mismatch(fields: &[Field], bindings: &[Reflected]) -> Option<String> {
    let missing = fields.iter().filter(|field| !field.is_optional);
    for field in missing {
        if !bindings.iter().any(|binding| binding.name == field.name) {
            return Some(format!("the shader has no {}", field.name));
        }
    }
    for Reflected { name, access, bytes, .. } in bindings {
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            return Some(format!("{name} is no field"));
        };
        let is_alike = match (access, field.kind) {
            (Access::Read, Kind::Read) | (Access::Write, Kind::Write) => true,
            (Access::Uniform(members), Kind::Uniform(words)) => {
                // A vector, which is no struct, has as many words.
                let count = if members.is_empty() { words.len() } else { members.len() };
                *bytes == 4 * count as u64
                    && count <= words.len()
                    && members.iter().zip(words).all(|((name, offset, scalar), word)| {
                        (name.as_str(), *offset, *scalar) == (word.name, word.offset, word.scalar)
                    })
            }
            _ => false,
        };
        if !is_alike {
            return Some(format!("{name} is {access:?}, but its field {:?}", field.kind));
        }
    }
    None
}
