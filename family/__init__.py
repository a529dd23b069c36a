"""Further published methods of the field, each in one file; `docs/family.md` describes them."""
