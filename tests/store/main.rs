//! Is what comes out of the snapshot store what went in, whatever happened to it in between?

mod budget;
mod bytes;
mod damage;
mod golden;
mod opening;
mod prefixes;
mod states;
