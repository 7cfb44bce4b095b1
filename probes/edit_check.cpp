// What can be refused of edits before there is a model.
#include <algorithm>

#include "base/text.h"
#include "probes/edit_spec.h"
#include "probes/edits.h"

namespace signalbox::probes {

void EditSpec::refuse_no_token(const std::string& only_given) const {
  if (tokens.phase == Phase::generated && !only_given.empty())
    ref.at("tokens").at("phase").fail("expected tokens that are run, found \"generated\" (" + only_given + ")");
}

std::vector<std::string> check_edit_file(const std::filesystem::path& file, std::span<const std::string> span_names) {
  const json::Value value = json::parse_file(file, uint64_t{64} << 20);
  const json::Ref whole(value, file.string());
  if (value.type() != json::Type::object && value.type() != json::Type::array)
    whole.fail_type("{\"edits\": [...]} or a list of edits");
  if (value.type() == json::Type::object) whole.reject_unknown({"edits"});
  const json::Ref list = value.type() == json::Type::object ? whole.at("edits") : whole;
  list.expect_array();
  std::vector<std::string> of_generated;
  for (const json::Ref& one : list.items()) {
    const EditSpec edit = EditSpec::parse(one, file.parent_path(), 0);
    if (edit.tokens.phase == Phase::generated) of_generated.push_back(one.path());
    const std::string& span = edit.tokens.span;
    if (!span.empty() && std::find(span_names.begin(), span_names.end(), span) == span_names.end())
      one.at("tokens").at("span").fail("expected a span that a record has (" +
                                       (span_names.empty() ? std::string("none has any") : joined(span_names)) +
                                       "), found \"" + span + "\"");
  }
  return of_generated;
}

}  // namespace signalbox::probes
