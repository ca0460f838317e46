//! What does it read, remember, answer?
