//! Compiling: the operator's objects in, resources out, which the real proxy's decoder then takes.

mod cases;
mod check;
mod churn;
mod edits;
mod envoy;
mod golden;
mod limits;
mod odd;
mod raw;
mod run;
mod same;
mod served;
