//! What goes before steps that count.

use asynctls::Result;
use asynctls::attention::Attention;
use asynctls::engine::{Engine, Session, Want};
use std::time::{Duration, Instant};

/// Work before the first step that counts: a GPU that has idled takes a while to be as fast as it can be.
const WARM: Duration = Duration::from_secs(1);

/// Takes steps with all sessions, and takes them back, until the GPU is as fast as it can be.
///
/// # Errors
/// Errors of the device.
pub async fn warm_up(
    engine: &Engine,
    sessions: &mut [Session],
    attention: &Attention,
) -> Result<()> {
    let began = Instant::now();
    // On a CPU there is nothing to warm, and a step may take seconds.
    while !engine.gpu.is_cpu() && began.elapsed() < WARM {
        step(engine, sessions, attention).await?;
        for session in &mut *sessions {
            session.rewind(session.len() - 1)?;
        }
    }
    Ok(())
}

/// One token more of each session.
///
/// # Errors
/// Errors of the device.
pub async fn step(engine: &Engine, sessions: &mut [Session], attention: &Attention) -> Result<()> {
    let mut batch: Vec<(&mut Session, u32)> = sessions.iter_mut().map(|s| (s, 1)).collect();
    engine.decode(&mut batch, attention, Want::Token).await?;
    Ok(())
}
