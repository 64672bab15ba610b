"""The contract: verbs' signatures, types, errors and events. No behaviour."""
