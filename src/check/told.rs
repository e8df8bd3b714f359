//! What a caller tells of a block beside its address: what the checking mode keeps
//! at an allocation and compares at a free. Others pass it on, when they miss.

/// Which functions make a block and must free it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Family {
    Unknown = 0,
    /// malloc and all that C's free takes.
    C = 1,
    New = 2,
    NewArray = 3,
    Rust = 4,
}

impl Family {
    fn of(number: u8) -> Family {
        let known = [Family::C, Family::New, Family::NewArray, Family::Rust];
        known.into_iter().find(|family| *family as u8 == number).unwrap_or(Family::Unknown)
    }

    /// Who allocates, and who frees.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Family::Unknown => ("?", "?"),
            Family::C => ("malloc", "free"),
            Family::New => ("operator new", "operator delete"),
            Family::NewArray => ("operator new[]", "operator delete[]"),
            Family::Rust => ("Rust's alloc", "Rust's dealloc"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// In bytes; [`Told::NO_SIZE`] where it is not told.
    pub size: usize,
    /// A power of two in bytes, `NO_ALIGN` or `DEFAULT_ALIGN`.
    pub align: usize,
    pub family: Family,
    zeroed: bool,
}

/// Not told.
const NO_ALIGN: usize = 0;
/// What a caller means who could have told another one.
const DEFAULT_ALIGN: usize = usize::MAX;
/// What the default alignment is, in bytes.
pub const DEFAULT_ALIGN_BYTES: usize = 16;

impl Told {
    /// No block has this size.
    pub const NO_SIZE: usize = usize::MAX;
    pub const NOTHING: Told = Told::of(Told::NO_SIZE, NO_ALIGN, Family::Unknown);
    pub const C: Told = Told::of(Told::NO_SIZE, NO_ALIGN, Family::C);
    pub const NEW: Told = Told::of(Told::NO_SIZE, NO_ALIGN, Family::New);
    pub const NEW_ARRAY: Told = Told::of(Told::NO_SIZE, NO_ALIGN, Family::NewArray);
    pub const RUST: Told = Told::of(Told::NO_SIZE, NO_ALIGN, Family::Rust);

    #[inline(always)]
    pub const fn of(size: usize, align: usize, family: Family) -> Told {
        Told { size, align, family, zeroed: false }
    }

    #[inline(always)]
    pub const fn sized(self, size: usize) -> Told {
        Told { size, ..self }
    }

    /// `align` is a power of two.
    #[inline(always)]
    pub const fn aligned(self, align: usize) -> Told {
        Told { align, ..self }
    }

    /// At the default alignment.
    #[inline(always)]
    pub const fn unaligned(self) -> Told {
        Told { align: DEFAULT_ALIGN, ..self }
    }

    /// The memory will be cleared, or must be zero.
    pub const fn zeroed(self) -> Told {
        Told { zeroed: true, ..self }
    }

    pub fn is_zeroed(self) -> bool {
        self.zeroed
    }

    /// Whether [`Told::unaligned`] was said.
    pub fn is_default_aligned(self) -> bool {
        self.align == DEFAULT_ALIGN
    }

    /// Whether an alignment of its own was told.
    pub fn is_aligned(self) -> bool {
        self.align != NO_ALIGN && self.align != DEFAULT_ALIGN
    }

    /// The alignment that was told, or the default one, in bytes.
    pub fn align_bytes(self) -> usize {
        if self.is_aligned() { self.align } else { DEFAULT_ALIGN_BYTES }
    }

    /// What is kept of an allocation: who does not tell an alignment has the
    /// default one.
    pub fn kept(self) -> Told {
        let align = if self.align == NO_ALIGN { DEFAULT_ALIGN } else { self.align };
        Told::of(self.size, align, self.family)
    }

    /// Whether a free that tells an alignment tells this block's.
    pub fn agrees_on_align(self, kept: Told) -> bool {
        self.align == NO_ALIGN || self.align == kept.align
    }

    /// Family and alignment in a word: 0 to 7 the family; 8 to 15 the alignment's
    /// logarithm plus 2, 1 for the default, 0 for none told.
    pub const fn word(self) -> u32 {
        let align = match self.align {
            NO_ALIGN => 0,
            DEFAULT_ALIGN => 1,
            align => 2 + align.trailing_zeros(),
        };
        self.family as u32 | align << 8
    }

    pub fn of_word(word: u32) -> Told {
        let align = match word >> 8 & 0xff {
            0 => NO_ALIGN,
            1 => DEFAULT_ALIGN,
            n => 1usize.checked_shl(n - 2).unwrap_or(NO_ALIGN),
        };
        Told::of(Told::NO_SIZE, align, Family::of(word as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_kept_and_compared() {
        let plain = Told::NEW.sized(24).kept();
        assert_eq!((plain.size, plain.family), (24, Family::New));
        assert_eq!(plain.align_bytes(), DEFAULT_ALIGN_BYTES);
        assert!(Told::NEW.agrees_on_align(plain) && Told::NEW.unaligned().agrees_on_align(plain));
        assert!(!Told::NEW.aligned(16).agrees_on_align(plain));
        for family in [Told::NOTHING, Told::C, Told::NEW, Told::NEW_ARRAY, Told::RUST] {
            assert_eq!(Told::of_word(family.word()), family);
            assert_eq!(Told::of_word(family.unaligned().word()), family.unaligned());
            for shift in 0..usize::BITS {
                let aligned = family.aligned(1 << shift).zeroed().kept();
                assert!(aligned.is_aligned() && !aligned.is_zeroed());
                assert_eq!(aligned.align_bytes(), 1 << shift);
                assert!(family.agrees_on_align(aligned));
                assert!(!family.unaligned().agrees_on_align(aligned));
                assert_eq!(Told::of_word(aligned.word()), aligned);
            }
        }
    }
}
