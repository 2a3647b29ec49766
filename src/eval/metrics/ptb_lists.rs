//! Words and characters that [`super::ptb`] treats specially, found by probing the original with
//! all words of two to four letters and some longer ones before a full stop, and with all
//! characters of the basic multilingual plane, alone and inside a word.

/// Words that keep their full stop, in any case.
pub(super) const ABBREVIATIONS: &str = "\
    adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif \
    capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq \
    est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan \
    kans ky lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg \
    natl neb nev nov oct okla penn pfc ph.d ph plc ppte ppty pres prof profs pte ptes pty ptys \
    pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu \
    thurs treas tue tues univ va vs vt wed wis wisc wm wyo";

/// Words that keep their full stop when capitalised; in lower case they are other words.
pub(super) const CAPITALIZED_ABBREVIATIONS: &str = "\
    Ark Az Del Ill La Mass Miss Ore Pa Tex Wash";

/// Words that keep their full stop before a number.
pub(super) const BEFORE_NUMBERS: &str = "art ca fig figs no nos op pp prop";

/// Words that start a sentence after a single letter and its full stop.
pub(super) const SENTENCE_STARTERS: &str = "\
    The Then A An In It He She They This That We You Her But If So At When There Here As Our \
    Their These What After While However Since Some Many One Yet Now";

/// Words that keep their apostrophe, as regular expressions.
pub(super) const APOSTROPHE_WORDS: &str = "\
    c'mon c'est e'er o'er ev'ry nat'l s'mores? cap'n li'l ol' nor'easter";

/// Words that are split in two.
pub(super) const ASSIMILATIONS: &str = "can+not gon+na got+ta lem+me gim+me wan+na";

/// Ranges for a character class: word characters besides Unicode's letters, namely combining marks
/// and modifiers of the original's version of Unicode.
pub(super) const MARKS: &str = concat!(
    r"\u{2c2}-\u{2c5}\u{2d2}-\u{2df}\u{2e5}-\u{2eb}\u{2ed}\u{2ef}-\u{36f}\u{375}",
    r"\u{378}-\u{379}\u{384}-\u{385}\u{3f6}\u{483}-\u{487}\u{55a}-\u{55f}\u{591}-\u{5bd}\u{5bf}",
    r"\u{5c1}-\u{5c2}\u{5c4}-\u{5c5}\u{5c7}\u{615}-\u{61a}\u{64b}-\u{65e}\u{670}\u{6d6}-\u{6e4}",
    r"\u{6e7}-\u{6ed}\u{6fd}-\u{6fe}\u{70f}\u{711}\u{730}-\u{74c}\u{7a6}-\u{7b0}\u{7eb}-\u{7f3}",
    r"\u{900}-\u{903}\u{93c}\u{93e}-\u{94e}\u{951}-\u{955}\u{962}-\u{963}\u{981}-\u{983}\u{9bc}",
    r"\u{9be}-\u{9c4}\u{9c7}-\u{9c8}\u{9cb}-\u{9cd}\u{9d7}\u{9e2}-\u{9e3}\u{a01}-\u{a03}\u{a3c}",
    r"\u{a3e}-\u{a4f}\u{a81}-\u{a83}\u{abc}\u{abe}-\u{acf}\u{b82}\u{bbe}-\u{bc2}\u{bc6}-\u{bc8}",
    r"\u{bca}-\u{bcd}\u{c01}-\u{c03}\u{c3e}-\u{c56}\u{d3e}-\u{d44}\u{d46}-\u{d48}\u{e31}",
    r"\u{e34}-\u{e3a}\u{e47}-\u{e4e}\u{eb1}\u{eb4}-\u{ebc}\u{ec8}-\u{ecd}\u{1885}-\u{1886}",
);

/// Ranges for a character class: characters that are tokens by themselves. Every other character
/// that no rule matches is dropped, including emoji.
pub(super) const SYMBOLS: &str = concat!(
    r"/@_\u{23}-\u{26}\u{2a}-\u{2b}\u{3c}-\u{3e}\u{5c}\u{5e}\u{60}\u{7c}\u{7e}\u{a1}\u{a5}-\u{a9}",
    r"\u{ac}\u{ae}-\u{b4}\u{b6}-\u{b9}\u{bf}\u{d7}\u{f7}\u{37e}\u{387}\u{589}\u{5be}\u{5c0}",
    r"\u{5c3}\u{5c6}\u{5f3}-\u{5f4}\u{600}-\u{603}\u{606}-\u{60c}\u{614}\u{61b}\u{61e}-\u{61f}",
    r"\u{66a}\u{66d}\u{6d4}\u{700}-\u{70d}\u{7f6}-\u{7f8}\u{964}-\u{965}\u{e3f}\u{e4f}\u{1fbd}",
    r"\u{2016}-\u{2017}\u{201a}\u{201e}-\u{2023}\u{2030}-\u{2038}\u{203b}\u{203e}-\u{2042}",
    r"\u{2044}\u{2070}\u{2074}-\u{207e}\u{2080}-\u{208e}\u{20a4}\u{2100}-\u{2101}",
    r"\u{2103}-\u{2106}\u{2108}-\u{2109}\u{2114}\u{2116}-\u{2118}\u{211e}-\u{2123}\u{2125}",
    r"\u{2127}\u{2129}\u{212e}\u{213a}-\u{213b}\u{2140}-\u{2144}\u{214a}-\u{214d}\u{214f}",
    r"\u{2155}-\u{215e}\u{2190}-\u{2bff}\u{3001}-\u{3002}\u{3012}\u{30fb}\u{ff01}-\u{ff0f}",
    r"\u{ff1a}-\u{ff20}\u{ff3b}-\u{ff40}\u{ff5b}-\u{ff65}\u{ffe0}-\u{ffe1}\u{ffe5}-\u{ffe6}",
);
