// Tests: what stands after `is`.
#include <unordered_map>

#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

bool remainder_is(Runtime& rt, const Value& value, const Value& by, int64_t wanted) {
  return rt.equal(modulo(rt, value, by), Value::integer(wanted));
}

Value other(const char* name, const Args& args) { return *Bound(name, args, {"other"}, 1)[0]; }

template <Kind kind>
bool is_kind(Runtime&, const Value& value, Args& args) {
  Bound("test", args, {});
  return value.is(kind);
}

template <bool wanted>
bool is_bool(Runtime&, const Value& value, Args& args) {
  Bound("test", args, {});
  return value.is(Kind::boolean) && value.boolean() == wanted;
}

bool is_defined(Runtime&, const Value& value, Args& args) {
  Bound("defined", args, {});
  return !value.is_undefined();
}

bool is_number(Runtime&, const Value& value, Args& args) {
  Bound("number", args, {});
  return value.is_number();
}

bool is_sequence(Runtime&, const Value& value, Args& args) {  // has len() and subscripts, as far as Python can tell
  Bound("sequence", args, {});
  return value.is_string() || value.is_sequence() || value.is(Kind::dict) || value.is(Kind::range) ||
         value.is_undefined();
}

bool is_iterable(Runtime&, const Value& value, Args& args) {
  Bound("iterable", args, {});
  return value.is_string() || value.is_sequence() || value.is(Kind::dict) || value.is(Kind::view) ||
         value.is(Kind::range) || value.is(Kind::generator) || value.is_undefined() ||
         (value.is(Kind::object) && std::string_view(type_name(value)) == "LoopContext");
}

bool is_callable(Runtime&, const Value& value, Args& args) {
  Bound("callable", args, {});
  return value.is(Kind::function) || value.is_undefined() || (value.is(Kind::object) && value.host().callable());
}

bool is_odd(Runtime& rt, const Value& value, Args& args) {
  Bound("odd", args, {});
  return remainder_is(rt, value, Value::integer(2), 1);
}

bool is_even(Runtime& rt, const Value& value, Args& args) {
  Bound("even", args, {});
  return remainder_is(rt, value, Value::integer(2), 0);
}

bool is_divisible(Runtime& rt, const Value& value, Args& args) {
  return remainder_is(rt, value, *Bound("divisibleby", args, {"num"}, 1)[0], 0);
}

bool is_lower_text(Runtime& rt, const Value& value, Args& args) {
  Bound("lower", args, {});
  return text_is_lower(rt.str(value).text());
}

bool is_upper_text(Runtime& rt, const Value& value, Args& args) {
  Bound("upper", args, {});
  return text_is_upper(rt.str(value).text());
}

bool is_filter(Runtime& rt, const Value& value, Args& args) {
  Bound("filter", args, {});
  hash(rt.budget, value);  // Python looks it up in a dict
  return value.is_string() && known_filter(value.text().bytes);
}

bool is_test(Runtime& rt, const Value& value, Args& args) {
  Bound("test", args, {});
  hash(rt.budget, value);
  return value.is_string() && known_test(value.text().bytes);
}

bool is_escaped(Runtime&, const Value& value, Args& args) {
  Bound("escaped", args, {});
  return value.is_string() && value.text().markup;
}

bool is_in(Runtime& rt, const Value& value, Args& args) {
  return rt.contains(*Bound("in", args, {"seq"}, 1)[0], value);
}

bool is_same(Runtime&, const Value& value, Args& args) { return identical(value, other("sameas", args)); }
bool is_eq(Runtime& rt, const Value& value, Args& args) { return rt.equal(value, other("eq", args)); }
bool is_ne(Runtime& rt, const Value& value, Args& args) { return !rt.equal(value, other("ne", args)); }
bool is_lt(Runtime& rt, const Value& value, Args& args) {
  return compare(rt.budget, value, other("lt", args), "<") == -1;
}
bool is_gt(Runtime& rt, const Value& value, Args& args) {
  return compare(rt.budget, value, other("gt", args), ">") == 1;
}
bool is_le(Runtime& rt, const Value& value, Args& args) {
  return compare(rt.budget, value, other("le", args), "<=") <= 0;
}
bool is_ge(Runtime& rt, const Value& value, Args& args) {
  const int order = compare(rt.budget, value, other("ge", args), ">=");
  return order == 0 || order == 1;
}

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> table = {
      {"odd", is_odd},
      {"even", is_even},
      {"divisibleby", is_divisible},
      {"defined", is_defined},
      {"undefined", is_kind<Kind::undefined>},
      {"filter", is_filter},
      {"test", is_test},
      {"none", is_kind<Kind::none>},
      {"boolean", is_kind<Kind::boolean>},
      {"false", is_bool<false>},
      {"true", is_bool<true>},
      {"integer", is_kind<Kind::integer>},
      {"float", is_kind<Kind::real>},
      {"lower", is_lower_text},
      {"upper", is_upper_text},
      {"string", is_kind<Kind::string>},
      {"mapping", is_kind<Kind::dict>},
      {"number", is_number},
      {"sequence", is_sequence},
      {"iterable", is_iterable},
      {"callable", is_callable},
      {"sameas", is_same},
      {"escaped", is_escaped},
      {"in", is_in},
      {"==", is_eq},
      {"eq", is_eq},
      {"equalto", is_eq},
      {"!=", is_ne},
      {"ne", is_ne},
      {">", is_gt},
      {"gt", is_gt},
      {"greaterthan", is_gt},
      {"ge", is_ge},
      {">=", is_ge},
      {"<", is_lt},
      {"lt", is_lt},
      {"lessthan", is_lt},
      {"<=", is_le},
      {"le", is_le},
  };
  const auto at = table.find(name);
  return at == table.end() ? nullptr : at->second;
}

}  // namespace signalbox::loaders::jinja
