// SPDX-License-Identifier: Apache-2.0
//! What cosign wrote and what openssl makes, read; what we write, read by openssl; programs that are
//! asked.
mod cases;
