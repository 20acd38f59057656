//! What a power cut draws.

/// Numbers for one power cut. Every cut has a temper of its own, because one that loses every second write seldom
/// shows what one does that loses all of them, or a single one.
pub(super) struct Draw<'a> {
    rng: &'a mut dyn FnMut() -> u64,
    temper: Option<u64>,
}

/// Of this many, how many writes last.
const SCALE: u64 = 16;

impl<'a> Draw<'a> {
    pub(super) fn new(rng: &'a mut dyn FnMut() -> u64) -> Self {
        let temper = match rng() % 8 {
            0 => Some(0),
            1 => Some(SCALE),
            2 => Some(1),
            3 => Some(SCALE - 1),
            // Another one for every file.
            _ => None,
        };
        Self { rng, temper }
    }

    /// How probable it is that a change lasts, in `SCALE`ths.
    pub(super) fn bias(&mut self) -> u64 {
        match self.temper {
            Some(temper) => temper,
            None => self.below(SCALE + 1),
        }
    }

    pub(super) fn keeps(&mut self, bias: u64) -> bool {
        self.below(SCALE) < bias
    }

    /// Whether a write that lasts is torn, and if so, whether its start is what is kept.
    pub(super) fn tear(&mut self) -> Option<bool> {
        match self.below(SCALE) {
            0 | 1 => Some(true),
            2 => Some(false),
            _ => None,
        }
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        (self.rng)() % end.max(1)
    }
}
