//! What is the arithmetic?
