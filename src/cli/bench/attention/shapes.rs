//! Shapes of attention, by a model's name or in numbers.

use asynctls::attention::Shape;
use asynctls::model::{ModelConfig, RandomModel};
use asynctls::{Error, Result};

/// The shape that the options name.
pub(super) fn shape(model: &str, heads: Option<&str>) -> Result<Shape> {
    let shape = match heads {
        Some(heads) => numbers(heads)?,
        None => {
            let file = super::super::named(model)?.open(RandomModel::TYPES[0])?;
            ModelConfig::read(&file)?.shape()
        }
    };
    shape.validate()?;
    Ok(shape)
}

fn numbers(heads: &str) -> Result<Shape> {
    let parts: Option<Vec<u32>> = heads.split('x').map(|part| part.trim().parse().ok()).collect();
    match parts.as_deref() {
        Some(&[kv_heads, group, dim]) => Ok(Shape::new(kv_heads, group, dim, false)),
        _ => {
            let limit = "it must be KV heads, query heads of each and dimensions, such as 8x4x128";
            Err(Error::argument("--heads", heads, limit))
        }
    }
}

/// What people call it.
pub(super) fn name(shape: &Shape) -> String {
    let Shape { kv_heads, group, head_dim, .. } = shape;
    match shape.shares_values() {
        true => format!(
            "{group} heads over latents of {} + {}",
            shape.value_dim(),
            head_dim - shape.value_dim()
        ),
        false => format!("{} heads over {kv_heads} KV heads of {head_dim}", kv_heads * group),
    }
}
