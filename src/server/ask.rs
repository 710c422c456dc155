//! What is asked for, whichever interface it came by.

use super::fault::{Fault, Kind, Read};
use super::fields::Fields;
use super::form::Form;
use super::reasoning::Reasoning;
use super::tools::Tools;
use crate::generate::{Framing, Turn};
use crate::model::{SamplerSettings, random_seed};

/// Stop texts that a request may have.
const MOST_STOPS: usize = 16;

/// A request in our own words.
#[derive(Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) prompt: Prompt,
    pub(super) wishes: Wishes,
    pub(super) tools: Tools,
    pub(super) stream: bool,
}

/// What is to be answered or gone on with.
#[derive(Debug, PartialEq)]
pub(super) enum Prompt {
    /// Messages, which the model's template frames.
    Messages(Vec<Turn>),
    /// Messages that are to be answered without thinking first.
    Unthinking(Vec<Turn>),
    /// A text as it is; control tokens that it spells out count.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// Its tokens, where the answer may call these tools.
    pub(super) fn tokens(self, tools: &Tools, framing: &Framing) -> Read<Vec<u32>> {
        match self {
            Self::Messages(turns) => framed(&turns, tools, framing),
            Self::Unthinking(turns) => {
                let tokens = framed(&turns, tools, framing)?;
                if framing.may_think() || Reasoning::after(framing.tokenizer(), &tokens).is_inside()
                {
                    let limit = "this model thinks first, unless the server was started without it";
                    return Err(Fault::field("thinking", "disabled", limit));
                }
                Ok(tokens)
            }
            Self::Text(text) => {
                let tokenizer = framing.tokenizer();
                Ok(tokenizer.begin(tokenizer.encode(&text, true)?))
            }
            Self::Tokens(tokens) => Ok(tokens),
        }
    }
}

fn framed(turns: &[Turn], tools: &Tools, framing: &Framing) -> Read<Vec<u32>> {
    // A template that knows nothing of calls would leave them out.
    let has_calls = turns.iter().any(|turn| !turn.fields.is_empty());
    if (has_calls || tools.are_callable()) && framing.template_with_tools().is_none() {
        let limit = "the model's chat template does not tell it of tools";
        return Err(Fault::field("tools", "given", limit));
    }
    Ok(framing.tokens(turns, &tools.definitions())?)
}

/// How the answer is wished to be; what is not said is as the server has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wishes {
    /// The most tokens of the answer; else what the context has room for.
    pub(super) max_tokens: Option<u32>,
    pub(super) stop: Vec<String>,
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) top_k: Option<usize>,
    pub(super) min_p: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) seed: Option<u64>,
    /// Of how many of the likeliest tokens log-probabilities come with each token.
    pub(super) logprobs: Option<usize>,
    /// What the answer has to be.
    pub(super) form: Option<Form>,
    /// Whether it goes on where the model would end it.
    pub(super) ignore_eos: bool,
}

impl Wishes {
    /// The fields that every interface calls alike. The hottest temperature is the interface's.
    pub(super) fn read(fields: &mut Fields, hottest: f64) -> Read<Self> {
        let up_to = |most: f64| move |number: f64| (0.0..=most).contains(&number);
        let temperature = fields.number(
            "temperature",
            up_to(hottest),
            &format!("a number from 0 to {hottest}"),
        )?;
        let share = |number: f64| number > 0.0 && number <= 1.0;
        let top_p = fields.number("top_p", share, "a number above 0 and at most 1")?;
        let top_k = fields.whole("top_k", 0..=u32::MAX.into())?.map(|k| k as usize);
        Ok(Self { temperature, top_p, top_k, ..Self::default() })
    }

    /// Those of OpenAI's interfaces, of which some are other servers' additions.
    pub(super) fn read_open_ai(fields: &mut Fields) -> Read<Self> {
        let low = |number: f64| (-2.0..=2.0).contains(&number);
        let share = |number: f64| (0.0..=1.0).contains(&number);
        // What is more is beyond the numbers that are divided by it.
        let divisor = |number: f64| (1e-3..=1e3).contains(&number);
        let sign = "a number from -2 to 2";
        Ok(Self {
            stop: fields.texts("stop", MOST_STOPS)?,
            min_p: fields.number("min_p", share, "a number from 0 to 1")?,
            repetition_penalty: fields.number(
                "repetition_penalty",
                divisor,
                "a number from 0.001 to 1000",
            )?,
            presence_penalty: fields.number("presence_penalty", low, sign)?,
            frequency_penalty: fields.number("frequency_penalty", low, sign)?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            // Negative ones are seeds like any other.
            seed: fields.whole("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
            ..Self::read(fields, 2.0)?
        })
    }

    /// Anthropic's name for stop texts.
    pub(super) fn read_stops(fields: &mut Fields, name: &str) -> Read<Vec<String>> {
        fields.texts(name, MOST_STOPS)
    }

    /// The sampler's settings, where the server's own are these.
    pub(super) fn settings(&self, own: SamplerSettings, seed: Option<u64>) -> SamplerSettings {
        let mut settings = SamplerSettings {
            temperature: self.temperature.unwrap_or(own.temperature),
            top_k: self.top_k.unwrap_or(own.top_k),
            top_p: self.top_p.unwrap_or(own.top_p),
            min_p: self.min_p.unwrap_or(own.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(own.repetition_penalty),
            repetition_window: match self.repetition_penalty {
                Some(_) => None,
                None => own.repetition_window,
            },
            presence_penalty: self.presence_penalty.unwrap_or(own.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(own.frequency_penalty),
            seed: 0,
        };
        if settings.draws() {
            settings.seed = self.seed.or(seed).unwrap_or_else(random_seed);
        }
        settings
    }
}

/// Checks the model's name, which may be left out.
pub(super) fn check_model(fields: &mut Fields, served: &str) -> Read<()> {
    match fields.text("model")? {
        Some(name) if name != served => Err(Fault {
            kind: Kind::NotFound,
            ..Fault::field("model", format!("{name:?}"), &format!("this server has {served:?}"))
        }),
        _ => Ok(()),
    }
}

/// A message.
pub(super) fn turn(role: &str, content: String) -> Turn {
    Turn::new(role, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_go_before_the_servers_own_settings() {
        let own = SamplerSettings {
            temperature: 0.6,
            top_k: 20,
            repetition_penalty: 1.1,
            repetition_window: Some(64),
            ..SamplerSettings::default()
        };
        let none = Wishes::default();
        assert_eq!(none.settings(own, Some(7)), SamplerSettings { seed: 7, ..own });
        let wishes = Wishes {
            temperature: Some(1.0),
            repetition_penalty: Some(1.2),
            seed: Some(9),
            ..none.clone()
        };
        let settings = wishes.settings(own, Some(7));
        assert_eq!((settings.temperature, settings.top_k, settings.seed), (1.0, 20, 9));
        assert_eq!((settings.repetition_penalty, settings.repetition_window), (1.2, None));
        // Where nothing is drawn there is no seed.
        let cold = Wishes { temperature: Some(0.0), seed: Some(9), ..none };
        assert_eq!(cold.settings(own, Some(7)).seed, 0);
    }
}
