//! The parts of a recipe that train an existing model further: adapters and comparisons of answers.

use super::super::objective::LossConfig;
use super::super::preference::ReferenceConfig;
use super::language::LanguageRecipe;
use super::model::{AddedNormConfig, UpcycleConfig};
use crate::data::CurriculumConfig;
use crate::error::{Error, Result};
use crate::model::QkNorm;

impl LanguageRecipe {
    /// Checks that the sections fit together.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the section at fault and what is allowed.
    pub(super) fn validate_post_training(&self) -> Result<()> {
        self.validate_adapter()?;
        self.validate_upcycling()?;
        self.validate_added_norm()?;
        self.validate_kind()?;
        self.validate_train_rows()?;
        self.validate_preference()?;
        if let Some(reward_model) = &self.reward_model {
            reward_model.validate()?;
        }
        self.validate_rl()
    }

    /// Whether an adapter is trained.
    pub fn has_adapter(&self) -> bool {
        self.adapter.is_some() || self.run.init_adapter.is_some()
    }

    /// Whether the run learns from comparisons of answers.
    pub fn compares_answers(&self) -> bool {
        self.preference.is_some() || self.kto.is_some() || self.reward_model.is_some()
    }

    /// Checks that the model can begin as a dense one, if it is to.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key at fault and what is allowed.
    fn validate_upcycling(&self) -> Result<()> {
        let Some(UpcycleConfig { redraw }) = self.upcycle else { return Ok(()) };
        if !(0.0..1.0).contains(&redraw) {
            return Err(Error::invalid(format!("upcycle.redraw is {redraw}; allowed: [0, 1)")));
        }
        if self.run.init.is_none() {
            return Err(Error::invalid("[upcycle] needs run.init, the dense checkpoint"));
        }
        if self.has_adapter() {
            let message = "[upcycle] and an adapter are both given; allowed: one of them";
            return Err(Error::invalid(message));
        }
        self.model.config(1).check_upcycling()
    }

    /// Checks that norms can be added, if they are to be.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key at fault and what is allowed.
    fn validate_added_norm(&self) -> Result<()> {
        let Some(AddedNormConfig { steps, batches }) = self.add_qk_norm else { return Ok(()) };
        let refused = |message: String| Err(Error::invalid(format!("add_qk_norm{message}")));
        let last = self.run.steps;
        if !(1..=last).contains(&steps) {
            return refused(format!(".steps is {steps}; allowed: 1 to run.steps, {last}"));
        }
        if batches == 0 {
            return refused(".batches is 0; allowed: at least 1".to_owned());
        }
        if self.run.init.is_none() {
            return refused(" needs run.init, the checkpoint without norms".to_owned());
        }
        if self.model.latent.is_some() {
            return refused(
                ": latent attention has norms of its own; leave the section out".to_owned(),
            );
        }
        if self.model.qk_norm != QkNorm::Rms {
            return refused(
                " makes norms of the kind \"rms\"; allowed for model.qk_norm: that, or nothing"
                    .to_owned(),
            );
        }
        let others = [
            ("an adapter", self.has_adapter()),
            ("[upcycle]", self.upcycle.is_some()),
            ("optimizer.train_rows", self.optimizer.train_rows.is_some()),
        ];
        match others.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => refused(format!(" and {name} are both given; allowed: one of them")),
            None => Ok(()),
        }
    }

    /// Checks that at most one section replaces next-token training, with what it does not read.
    fn validate_kind(&self) -> Result<()> {
        let sections = [
            ("[preference]", self.preference.is_some()),
            ("[kto]", self.kto.is_some()),
            ("[reward_model]", self.reward_model.is_some()),
            ("[rl]", self.rl.is_some()),
        ];
        let mut given = sections.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name);
        let Some(name) = given.next() else { return Ok(()) };
        if let Some(other) = given.next() {
            let message = format!("{name} and {other} are both given; allowed: one of them");
            return Err(Error::invalid(message));
        }
        let is_read = self.curriculum != CurriculumConfig::default()
            || self.loss != LossConfig::default()
            || self.upcycle.is_some()
            || self.add_qk_norm.is_some();
        match is_read {
            false => Ok(()),
            true => Err(Error::invalid(format!(
                "[curriculum], [upcycle], [add_qk_norm] and [loss] are not read with {name}"
            ))),
        }
    }

    /// Checks that nothing changes the rows that `optimizer.train_rows` keeps.
    fn validate_train_rows(&self) -> Result<()> {
        let others = [
            ("an adapter", self.has_adapter()),
            ("comparisons of answers", self.compares_answers()),
            ("[rl]", self.rl.is_some()),
            ("average.decay", self.average.decay > 0.0),
            ("loss.bias_update_speed", self.loss.bias_update_speed > 0.0),
        ];
        match others.iter().find(|(_, is_given)| *is_given && self.optimizer.train_rows.is_some()) {
            None => Ok(()),
            Some((name, _)) => {
                let message =
                    format!("optimizer.train_rows and {name} are both given; allowed: one of them");
                Err(Error::invalid(message))
            }
        }
    }

    fn validate_preference(&self) -> Result<()> {
        let refused = |message: &str| Err(Error::invalid(message));
        if self.preference.is_none() && self.kto.is_none() {
            return match self.reference == ReferenceConfig::default() {
                true => Ok(()),
                false => refused("[reference] needs [preference] or [kto]"),
            };
        }
        let mut needs_reference = true;
        if let Some(preference) = &self.preference {
            preference.validate()?;
            needs_reference = preference.needs_reference();
            if self.reference.precompute && preference.needs_reference_tokens() {
                return refused(
                    "reference.precompute keeps one number an answer, but preference.ld_alpha needs one for each \
                     token; allowed: one of them",
                );
            }
        }
        if let Some(kto) = &self.kto {
            kto.validate()?;
            if kto.needs_mismatched() && self.reference.precompute {
                return refused(
                    "reference.precompute: kto compares with answers to other prompts, which change in every step; \
                     allowed: false",
                );
            }
            if kto.needs_mismatched() && self.batch.sequences < 2 {
                return refused("batch.sequences is 1; kto needs at least 2 answers to compare");
            }
        }
        if self.run.init.is_none() && needs_reference {
            return refused("[preference] and [kto] need run.init, the reference's checkpoint");
        }
        Ok(())
    }

    fn validate_adapter(&self) -> Result<()> {
        if self.adapter.is_some() && self.run.init_adapter.is_some() {
            let message = "[adapter] and run.init_adapter are both given; the adapter in \
                           run.init_adapter has its own settings";
            return Err(Error::invalid(message));
        }
        if self.has_adapter() && self.run.init.is_none() {
            let message = "an adapter needs run.init, the checkpoint that it adapts";
            return Err(Error::invalid(message));
        }
        if self.has_adapter() && self.loss.bias_update_speed != 0.0 {
            let message = "loss.bias_update_speed: an adapter leaves the routers as they are; allowed with it: 0";
            return Err(Error::invalid(message));
        }
        if self.optimizer.loraplus_lr_ratio.is_some() && !self.has_adapter() {
            return Err(Error::invalid("optimizer.loraplus_lr_ratio needs [adapter]"));
        }
        match &self.adapter {
            Some(adapter) => adapter.validate().map_err(Error::because("adapter")),
            None => Ok(()),
        }
    }

    fn validate_rl(&self) -> Result<()> {
        let Some(rl) = &self.rl else { return Ok(()) };
        let error = |message: String| Err(Error::invalid(message));
        rl.validate()?;
        if self.run.init.is_none() {
            return error("[rl] needs run.init, the checkpoint that answers".to_owned());
        }
        if let Some(critic) = rl.critic.as_ref().filter(|c| c.warmup_steps >= self.run.steps) {
            let (warmup, steps) = (critic.warmup_steps, self.run.steps);
            let message =
                format!("allowed: below run.steps, {steps}, as the policy learns after it");
            return error(format!("rl.critic.warmup_steps is {warmup}; {message}"));
        }
        let (accumulate, dropout) = (self.batch.accumulate, self.model.dropout);
        if accumulate != 1 {
            let message = "allowed with [rl]: 1, as rl.prompts_per_step says what a step holds";
            return error(format!("batch.accumulate is {accumulate}; {message}"));
        }
        let of_adapter = self.adapter.as_ref().map_or(0.0, |adapter| adapter.lora_dropout);
        for (key, value) in [("model.dropout", dropout), ("adapter.lora_dropout", of_adapter)] {
            if value != 0.0 {
                let message = "allowed with [rl]: 0, so that the policy is the model that answers";
                return error(format!("{key} is {value}; {message}"));
            }
        }
        Ok(())
    }
}
