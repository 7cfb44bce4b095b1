// Names that are mistyped, and what is said of them.
#include "base/near_names.h"

#include <doctest/doctest.h>

using namespace signalbox;
using Names = std::vector<std::string>;

TEST_CASE("near names: distances, written out") {
  CHECK(name_distance("", "") == 0);
  CHECK(name_distance("", "abc") == 3);
  CHECK(name_distance("kitten", "sitting") == 3);
  CHECK(name_distance("inptu", "input") == 1);  // an exchange of neighbours is one slip
  CHECK(name_distance("Builtn", "builtin") == 1);
  CHECK(name_distance("ab", "ba") == 1);
  CHECK(name_distance("ca", "abc") == 3);  // no letter is changed after an exchange
  CHECK(name_distance("genrate", "generate") == 1);
}

TEST_CASE("near names: what may have been meant, the nearest first") {
  const Names flags = {"--input", "--out", "--points", "--compact", "--device", "--seed"};
  CHECK(near_names("--inptu", flags) == Names{"--input"});
  CHECK(near_names("--poins", flags) == Names{"--points"});
  CHECK(near_names("--nothing-like-it", flags).empty());
  CHECK(near_names("emm", {"em", "f1", "ppl"}) == Names{"em"});
  CHECK(near_names("xy", {"ab"}).empty());
  CHECK(near_names("router.idss", {"router.ids", "router.weights", "router.logits"}).front() == "router.ids");
  CHECK(near_names("router", {"layer.1.router", "embed"}) == Names{"layer.1.router"});
  CHECK(near_names("a1", {"a2", "a3", "a4", "a5"}, 2) == Names{"a2", "a3"});
  CHECK(near_names(std::string(100000, 'a'), {"a"}).empty());
}

TEST_CASE("near names: few are all shown, many are cut with a count") {
  CHECK(wrong_name("a condition", "R9", {"R0", "R1", "R2", "R3"}) ==
        "expected a condition (R0, R1, R2, R3), found \"R9\"");
  CHECK(wrong_name("a span", "x", {}) == "expected a span (there are none), found \"x\"");
  Names many;
  for (int i = 0; i < 30; ++i) many.push_back("name" + std::to_string(100 + i));
  CHECK(choices("nam110", many).starts_with("nearest: name110"));
  CHECK(choices("quite-other", many, "signalbox x") ==
        "name100, name101, name102, name103, name104, name105, name106, name107, name108, name109, ... and 20 more: "
        "signalbox x lists them");
  CHECK(choices("quite-other", {"a", "b", "c", "d", "e", "f", "g"}) == "a, b, c, d, e, f, g");
}
