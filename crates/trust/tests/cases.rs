// SPDX-License-Identifier: Apache-2.0
mod cosign;
mod openssl;
mod programs;
mod stores;
