"""DeepPlanning's shopping half: a catalogue, a profile and one cart a case; fifteen tools; the cart alone is scored."""
