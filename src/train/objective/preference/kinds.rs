//! The losses over pairs of answers and the divergences from the reference, under the names of TRL 1.16.

use std::fmt;

use serde::de::value::{SeqAccessDeserializer, StrDeserializer};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A loss over pairs of answers.
///
/// With the log-ratios `c` and `r` of policy to reference, summed over the tokens of the chosen and the
/// rejected answer, `d = c - r`, their means over tokens `c'` and `r'`, `b = beta`,
/// `e = label_smoothing`, `s` the logistic function and `sp(x) = ln(1 + e^x)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// DPO, arXiv 2305.18290: `sp(-b d)`.
    Sigmoid,
    /// Conservative DPO (TRL 1.16 has it for `aot` only): `(1-e) sp(-b d) + e sp(b d)`.
    Conservative,
    /// Robust DPO, arXiv 2403.00409: `((1-e) sp(-b d) - e sp(b d)) / (1-2e)`.
    Robust,
    /// SLiC, arXiv 2305.10425: `max(0, 1 - b d)`.
    Hinge,
    /// IPO, arXiv 2310.12036, over means as in TRL: `(c' - r' - 1/(2b))^2`.
    Ipo,
    /// DPO over means: `sp(-b (c' - r'))`.
    SigmoidNorm,
    /// EXO, arXiv 2402.00856 equation 16: the divergence of `[s(b d), s(-b d)]` from `[1-e, e]`.
    ExoPair,
    /// NCA, arXiv 2402.05369: `sp(-b c) + sp(b c) / 2 + sp(b r) / 2`.
    NcaPair,
    /// BCO, arXiv 2404.04656, without its running shift: `sp(-b c) + sp(b r)`.
    BcoPair,
    /// SPPO with hard labels, arXiv 2405.00675: `(c - 1/(2b))^2 + (r + 1/(2b))^2`.
    SppoHard,
    /// Paired AOT, arXiv 2406.05882: the answers' gaps are sorted before they are compared.
    Aot,
    /// Unpaired AOT, arXiv 2406.05882: the sorted `c` are compared with the sorted `r`.
    AotUnpaired,
    /// APO-zero, arXiv 2408.06266 equation 7: `1 - s(b c) + s(b r)`.
    ApoZero,
    /// APO-down, arXiv 2408.06266 equation 8: `s(b c) + 1 - s(b d)`.
    ApoDown,
    /// DiscoPOP, arXiv 2406.08414 equation 5: `(1-m) sp(-b d) + m e^(-b d)`, `m = s(b d / tau)`.
    Discopop,
    /// The negative log-likelihood of the chosen answers, a mean over all their tokens.
    Sft,
    /// CPO, arXiv 2401.08417: `sp(-b d)` without a reference, and `cpo_alpha` times [`Sft`](Self::Sft).
    Cpo,
    /// As [`Cpo`](Self::Cpo), with [`Hinge`](Self::Hinge).
    CpoHinge,
    /// As [`Cpo`](Self::Cpo), with [`Ipo`](Self::Ipo), over means.
    CpoIpo,
    /// SimPO, arXiv 2405.14734, over means and without a reference: `sp(-(b (c' - r') - simpo_gamma))`.
    Simpo,
    /// ORPO, arXiv 2403.07691: negative log-likelihood plus `b sp(-log odds ratio)` over means.
    Orpo,
}

impl PreferenceLoss {
    /// Whether the loss uses the policy alone.
    pub fn is_reference_free(self) -> bool {
        matches!(self, Self::Cpo | Self::CpoHinge | Self::CpoIpo | Self::Simpo | Self::Orpo)
    }

    /// Whether the loss sorts answers, so that a pair has no loss of its own.
    pub fn sorts(self) -> bool {
        matches!(self, Self::Aot | Self::AotUnpaired)
    }

    /// Whether `label_smoothing` has an effect.
    pub(super) fn smooths_labels(self) -> bool {
        self.sorts()
            || matches!(self, Self::Conservative | Self::Robust | Self::ExoPair)
            || matches!(self, Self::Cpo | Self::Simpo)
    }

    /// Whether `cpo_alpha` has an effect.
    pub(super) fn adds_likelihood(self) -> bool {
        self.is_reference_free() && self != Self::Orpo
    }

    /// Whether the loss is a function of the two answers' difference, in which alone the normaliser of
    /// another divergence cancels (TRL 1.16).
    pub(super) fn allows_divergence(self) -> bool {
        matches!(self, Self::Sigmoid | Self::Conservative | Self::Robust | Self::Hinge | Self::Ipo)
            || matches!(self, Self::SigmoidNorm | Self::ExoPair | Self::Discopop | Self::Sft)
    }
}

/// The divergence from the reference that bounds the policy (f-DPO, arXiv 2309.16240): `c` and `r` are
/// replaced by `f'(pi / pi_ref)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// `c`, that is DPO.
    #[default]
    ReverseKl,
    /// `1 - e^-c`.
    ForwardKl,
    /// `ln 2 + ln s(c)`.
    JsDivergence,
    /// `(e^((a-1) c) - 1) / (a-1)` with `a = f_alpha_divergence_coef`.
    AlphaDivergence,
}

/// Reads one loss or a list.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<PreferenceLoss>, D::Error> {
    deserializer.deserialize_any(OneOrMore)
}

struct OneOrMore;

impl<'de> Visitor<'de> for OneOrMore {
    type Value = Vec<PreferenceLoss>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a preference loss or a list of names")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        PreferenceLoss::deserialize(StrDeserializer::new(name)).map(|loss| vec![loss])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list))
    }
}
