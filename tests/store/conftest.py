"""Fixtures of the tests of both stores."""

import pytest

for name in ("contract", "contract_accounts", "contract_jobs", "contract_claims", "contract_feeds", "contract_assets"):
    pytest.register_assert_rewrite(f"tests.store.{name}")
