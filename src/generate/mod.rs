//! Text from a model: prompts go in, tokens and text come out, piece by piece, for as long as the caller asks for more.
//!
//! A [`Generator`] answers in one session of an engine. A [`Chat`] is what was said so far, [`Framing`] makes tokens of
//! it, and a [`ChatFile`] keeps it between runs.
//!
//! ```no_run
//! use asynctls::attention::Budget;
//! use asynctls::engine::Engine;
//! use asynctls::generate::{AnswerOptions, Chat, Framing, Generator};
//! use asynctls::model::ModelFile;
//!
//! # async fn run(engine: Engine, file: ModelFile) -> asynctls::Result<()> {
//! let sampling = file.suggested_sampling()?.settings();
//! let options = AnswerOptions::new(sampling, Budget::for_context(8192));
//! let mut generator = Generator::new(engine, Framing::read(&file)?)?;
//! let mut chat = Chat::new(generator.framing(), Some("Be brief."))?;
//! chat.ask("Why is the sky blue?");
//! let mut answer = generator.answer(&mut chat, &options, &mut |_, _| true).await?;
//! while let Some(piece) = answer.next().await? {
//!     print!("{}", piece.text);
//! }
//! let made = answer.finish();
//! println!("\n{} tokens, {:?}", made.tokens.len(), made.end);
//! # Ok(())
//! # }
//! ```
//!
//! Who drives many answers over one engine, a server say, takes the [`Sequence`] of each: it knows no device, tells which
//! tokens a step should compute, and takes what the step gave back.

mod chat;
mod file;
mod framing;
mod generator;
mod grammar;
mod sequence;
mod stop;
mod thoughts;

pub use chat::{Chat, Turn};
pub use file::ChatFile;
pub use framing::Framing;
pub use generator::{Answer, Generator, Made, Work};
pub use grammar::Grammar;
pub use sequence::{AnswerOptions, End, Piece, Sequence};
#[cfg(feature = "server")]
pub(crate) use thoughts::{CLOSE, Marks, OPEN, Place};
