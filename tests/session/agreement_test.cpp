// What bench says of --numerics fast: exact agreement of a backend with itself, near agreement of bf16 products.
#include "tools/bench/agreement.h"

#include <doctest/doctest.h>

#include "loaders/open.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;

json::Value agreement(const char* numerics) {
  OpenOptions options;
  options.device = *parse_device("cpu");
  options.threads = 2;
  options.numerics = numerics;
  const Session session = open_session(test::golden_model("mixtral_bf16"), options);
  const auto reference = make_cpu_backend({1, "scalar"});
  return agreement_with(session, *reference, 24);
}

double real(const json::Value& found, const char* key) { return found.find(key)->real(); }

}  // namespace

TEST_CASE("agreement: invariant is the reference, whatever the instruction set") {
  const json::Value found = agreement("invariant");
  CHECK(found.find("tokens")->integer() == 24);
  CHECK(real(found, "same_experts") == 1);
  CHECK(real(found, "same_slots") == 1);
  CHECK(real(found, "same_top") == 1);
  CHECK(real(found, "kl_max") < 1e-12);
}

TEST_CASE("agreement: fast is near it") {
  const json::Value found = agreement("fast");
  CHECK(real(found, "same_experts") > 0.7);
  CHECK(real(found, "same_slots") >= real(found, "same_experts"));
  CHECK(real(found, "kl_mean") < 0.01);
  CHECK(real(found, "kl_mean") <= real(found, "kl_max"));
  CHECK(agreement_text(found).find("of routes the same, KL ") != std::string::npos);
}
