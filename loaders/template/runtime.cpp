// Values seen as Python's protocols: length, iteration, subscription, calls.
#include "loaders/template/runtime.h"

#include <algorithm>

#include "base/utf8.h"

namespace signalbox::loaders::jinja {
namespace {

class ItemsIterator : public Iterator {  // over a vector that `keep` owns
 public:
  ItemsIterator(Budget& budget, Value keep, const std::vector<Value>& items)
      : budget_(budget), keep_(std::move(keep)), items_(items) {}
  bool next(Value& out) override {
    if (at_ == items_.size()) return false;
    budget_.step();
    out = items_[at_++];
    return true;
  }

 private:
  Budget& budget_;
  Value keep_;
  const std::vector<Value>& items_;
  size_t at_ = 0;
};

class KeysIterator : public Iterator {
 public:
  KeysIterator(Budget& budget, Value dict) : budget_(budget), dict_(std::move(dict)) {}
  bool next(Value& out) override {
    if (at_ == dict_.dict().entries.size()) return false;
    budget_.step();
    out = dict_.dict().entries[at_++].first;
    return true;
  }

 private:
  Budget& budget_;
  Value dict_;
  size_t at_ = 0;
};

class CharactersIterator : public Iterator {
 public:
  CharactersIterator(Runtime& rt, Value text) : rt_(rt), text_(std::move(text)) {}
  bool next(Value& out) override {
    const Text& text = text_.text();
    if (at_ == text.bytes.size()) return false;
    rt_.budget.step();
    const size_t begin = at_;
    next_code_point(text.bytes, at_);
    TextBuilder character(rt_.budget);  // Python's iterator gives plain strings, of markup too
    character.add(text, begin, at_);
    out = character.finish();
    return true;
  }

 private:
  Runtime& rt_;
  Value text_;
  size_t at_ = 0;
};

class RangeIterator : public Iterator {
 public:
  RangeIterator(Budget& budget, Value range) : budget_(budget), range_(std::move(range)) {}
  bool next(Value& out) override {
    if (at_ == range_.range().length()) return false;
    budget_.step();
    out = Value::integer(range_.range().at(at_++));
    return true;
  }

 private:
  Budget& budget_;
  Value range_;
  int64_t at_ = 0;
};

class GeneratorIterator : public Iterator {
 public:
  explicit GeneratorIterator(Value generator) : generator_(std::move(generator)) {}
  bool next(Value& out) override { return generator_.generator().source->next(out); }

 private:
  Value generator_;
};

class NoIterator : public Iterator {
 public:
  bool next(Value&) override { return false; }
};

// How Undefined's messages call an object.
std::string object_name(const Value& value) {
  if (value.is_none()) return "None";
  if (value.is(Kind::object)) return std::string("jinja2.") + type_name(value) + " object";
  return std::string(type_name(value)) + " object";
}

Value no_attribute(const Value& value, std::string_view name) {
  return Value::undefined("'" + object_name(value) + "' has no attribute '" + shorten(name) + "'");
}

std::optional<int64_t> slice_index(const Value& value) {
  if (value.is_none()) return std::nullopt;
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (!value.is_integral()) throw Failure{"slice indices must be integers or None"};
  return value.integer();
}

}  // namespace

std::string shorten(std::string_view text) {
  size_t pos = 0;
  for (int n = 0; n < 60 && pos < text.size(); ++n) next_code_point(text, pos);
  return std::string(text.substr(0, pos)) + (pos < text.size() ? "..." : "");
}

Bound::Bound(const char* function, const Args& args, std::initializer_list<const char*> names, size_t required,
             bool keywords)
    : function_(function), slots_(names.size(), nullptr), names_(names) {
  if (args.positional.size() > names_.size())
    throw Failure{std::string(function) + "() takes at most " + std::to_string(names_.size()) + " arguments, found " +
                  std::to_string(args.positional.size())};
  for (size_t i = 0; i < args.positional.size(); ++i) slots_[i] = &args.positional[i];
  for (const auto& [name_of, value] : args.named) {
    const auto& name = name_of;  // a lambda of C++20's first compilers cannot capture a binding
    const auto at = std::find_if(names_.begin(), names_.end(), [&](const char* n) { return name == n; });
    if (!keywords || at == names_.end())
      throw Failure{std::string(function) + "() has no keyword argument '" + name + "'"};
    auto& slot = slots_[static_cast<size_t>(at - names_.begin())];
    if (slot) throw Failure{std::string(function) + "() got two values for the argument '" + name + "'"};
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!slots_[i]) throw Failure{std::string(function) + "() needs the argument '" + names_[i] + "'"};
}

int64_t Bound::integer(size_t i, int64_t otherwise) const {
  if (!slots_[i]) return otherwise;
  if (slots_[i]->is_undefined()) throw Failure{slots_[i]->undefined_message()};
  if (!slots_[i]->is_integral())
    throw Failure{std::string(function_) + "(): '" + names_[i] + "' must be an integer, found " +
                  type_name(*slots_[i])};
  return slots_[i]->integer();
}

const Text& Bound::text(size_t i) const {
  if (slots_[i]->is_undefined()) throw Failure{slots_[i]->undefined_message()};
  if (!slots_[i]->is_string())
    throw Failure{std::string(function_) + "(): '" + names_[i] + "' must be a string, found " + type_name(*slots_[i])};
  return slots_[i]->text();
}

Value HostObject::call(Runtime&, Args&) const {
  throw Failure{std::string("'") + type_name() + "' object is not callable"};
}

void HostObject::print(Runtime&, TextBuilder&, int) const {
  throw Failure{std::string("printing a ") + type_name() + " object is not supported"};
}

std::optional<Value> Namespace::attribute(Runtime&, std::string_view name) const {
  for (const auto& [key, value] : entries)
    if (key.is_string() && key.text().bytes == name) return value;
  return std::nullopt;
}

void Namespace::set(Runtime& rt, std::string_view name, Value value) {
  if (!name.empty() && name[0] == '_')
    throw Failure{"a namespace cannot hold an attribute that starts with an underscore: '" + shorten(name) + "'"};
  for (auto& [key, old] : entries)
    if (key.is_string() && key.text().bytes == name) {
      old = std::move(value);
      return;
    }
  if (entries.size() >= 256) throw Failure{"a namespace of more than 256 attributes"};
  entries.emplace_back(rt.string(name), std::move(value));
}

void Namespace::print(Runtime& rt, TextBuilder& out, int level) const {
  out.add("<Namespace ");
  rt.add_repr(out, rt.dict(entries), level + 1);
  out.add(">");
}

Runtime::~Runtime() {
  for (const auto& ns : namespaces_) ns->entries.clear();
}

Value Runtime::string(std::string_view bytes, bool content, bool markup) {
  budget.work(bytes.size());
  budget.need(bytes.size());
  std::vector<Span> spans;
  if (content && !bytes.empty()) spans.push_back({0, bytes.size()});
  return Value::object(Kind::string,
                       std::make_shared<const Text>(&budget, std::string(bytes), std::move(spans), markup));
}

Value Runtime::string(const Text& text, size_t begin, size_t end) {
  TextBuilder out(budget);
  out.add(text, begin, end);
  return out.finish(text.markup);
}

Value Runtime::list(std::vector<Value> items) {
  return Value::object(Kind::list, std::make_shared<const List>(&budget, std::move(items)));
}

Value Runtime::tuple(std::vector<Value> items) {
  return Value::object(Kind::tuple, std::make_shared<const List>(&budget, std::move(items)));
}

Value Runtime::dict(std::vector<Dict::Entry> entries) {
  return Value::object(Kind::dict, std::make_shared<const Dict>(&budget, std::move(entries)));
}

Value Runtime::generator(std::unique_ptr<Iterator> source, int depth) {
  auto generator = std::make_shared<Generator>();
  generator->source = std::move(source);
  generator->depth = nested(depth + 1);
  return Value::object(Kind::generator, std::move(generator));
}

Value Runtime::function(std::string name, Function::Body body, int depth) {
  budget.step();
  auto f = std::make_shared<Function>(std::move(name), std::move(body));
  f->depth = nested(depth + 1);
  return Value::object(Kind::function, std::move(f));
}

std::shared_ptr<Namespace> Runtime::make_namespace() {
  budget.hold(256);  // lives until the end
  namespaces_.push_back(std::make_shared<Namespace>());
  return namespaces_.back();
}

std::unique_ptr<Iterator> Runtime::iterate(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined: return std::make_unique<NoIterator>();
    case Kind::string: return std::make_unique<CharactersIterator>(*this, value);
    case Kind::list:
    case Kind::tuple: return std::make_unique<ItemsIterator>(budget, value, value.list().items);
    case Kind::dict: return std::make_unique<KeysIterator>(budget, value);
    case Kind::view: return std::make_unique<ItemsIterator>(budget, value, value.view().items);
    case Kind::range: return std::make_unique<RangeIterator>(budget, value);
    case Kind::generator: return std::make_unique<GeneratorIterator>(value);
    default: throw Failure{std::string("'") + type_name(value) + "' object is not iterable"};
  }
}

std::vector<Value> Runtime::collect(const Value& value) {
  const auto items = iterate(value);
  std::vector<Value> result;
  Value item;
  while (items->next(item)) {
    budget.step();
    if (result.size() % 1024 == 0) budget.need((result.size() + 1024) * sizeof(Value) * 2);
    result.push_back(std::move(item));
  }
  return result;
}

std::optional<int64_t> Runtime::length(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined: return 0;
    case Kind::string: return static_cast<int64_t>(value.text().length);
    case Kind::list:
    case Kind::tuple: return static_cast<int64_t>(value.list().items.size());
    case Kind::dict: return static_cast<int64_t>(value.dict().entries.size());
    case Kind::view: return static_cast<int64_t>(value.view().items.size());
    case Kind::range: return value.range().length();
    case Kind::object: return value.host().length(*this);
    default: return std::nullopt;
  }
}

std::optional<Value> Runtime::own_attribute(const Value& value, const std::string& name) {
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (value.is(Kind::object)) {
    if (!name.empty() && name[0] == '_') return std::nullopt;
    return value.host().attribute(*this, name);
  }
  return builtin_attribute(*this, value, name);
}

Value Runtime::attribute(const Value& value, const std::string& name) {
  if (auto own = own_attribute(value, name)) return *own;
  if (value.is(Kind::dict))
    if (const Value* found = value.dict().find(name)) return *found;
  return no_attribute(value, name);
}

Value Runtime::item(const Value& value, const Value& key) {
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (value.is(Kind::dict)) {
    const bool hashable = key.is_number() || key.is_string() || key.is_none() || key.is(Kind::tuple);
    if (hashable)
      if (const Value* found = value.dict().find(budget, key)) return *found;
  } else if (key.is_integral()) {
    const bool indexable = value.is_string() || value.is_sequence() || value.is(Kind::range);
    const int64_t n = indexable ? *length(value) : 0;
    int64_t i = key.integer();
    if (i < 0) i += n;
    if (indexable && i >= 0 && i < n) {
      if (value.is_sequence()) return value.list().items[static_cast<size_t>(i)];
      if (value.is(Kind::range)) return Value::integer(value.range().at(i));
      const Text& text = value.text();
      if (!text.ascii()) budget.work(text.bytes.size());
      const size_t begin = text.offset(static_cast<size_t>(i));
      size_t end = begin;
      next_code_point(text.bytes, end);
      return string(text, begin, end);
    }
  }
  if (key.is_string()) {
    if (auto own = own_attribute(value, key.text().bytes)) return *own;
    return no_attribute(value, key.text().bytes);
  }
  std::string shown = std::string("of type ") + type_name(key);
  if (key.is_integral()) shown = std::to_string(key.integer());
  return Value::undefined(object_name(value) + " has no element " + shown);
}

Value Runtime::slice(const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (!value.is_string() && !value.is_sequence() && !value.is(Kind::range))
    throw Failure{std::string("'") + type_name(value) + "' object cannot be sliced"};
  const int64_t n = *length(value);
  const int64_t by = slice_index(step).value_or(1);
  if (by == 0) throw Failure{"slice step cannot be zero"};
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? n : n - 1;
  const auto clamp = [&](const Value& bound, int64_t otherwise) {
    const auto index = slice_index(bound);
    if (!index) return otherwise;
    const int64_t i = *index < 0 ? std::max(*index, -n - 1) + n : *index;
    return std::clamp(i, low, high);
  };
  const int64_t first = clamp(start, by > 0 ? low : high), last = clamp(stop, by > 0 ? high : low);

  Range picked;  // of indices
  picked.start = first;
  picked.stop = last;
  picked.step = by;
  const int64_t count = picked.length();
  if (value.is(Kind::range)) {
    auto result = std::make_shared<Range>();
    const Range& range = value.range();
    result->start = range.start + first * range.step;
    result->stop = range.start + last * range.step;
    if (__builtin_mul_overflow(range.step, by, &result->step)) throw Failure{"an integer does not fit 64 bits"};
    return Value::object(Kind::range, std::move(result));
  }
  budget.step(static_cast<uint64_t>(count) / 8);
  if (value.is_sequence()) {
    std::vector<Value> items;
    budget.need(static_cast<uint64_t>(count) * sizeof(Value));
    items.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) items.push_back(value.list().items[static_cast<size_t>(picked.at(i))]);
    return value.is(Kind::list) ? list(std::move(items)) : tuple(std::move(items));
  }
  const Text& text = value.text();
  if (!text.ascii()) budget.work(text.bytes.size());
  if (by == 1)
    return count ? string(text, text.offset(static_cast<size_t>(first)), text.offset(static_cast<size_t>(last)))
                 : string("", false, text.markup);
  std::vector<size_t> offsets;  // of every code point, where they differ from the index
  if (!text.ascii()) {
    budget.need((text.length + 1) * sizeof(size_t));
    offsets.reserve(text.length + 1);
    for (size_t pos = 0; pos < text.bytes.size(); next_code_point(text.bytes, pos)) offsets.push_back(pos);
    offsets.push_back(text.bytes.size());
  }
  TextBuilder out(budget);
  for (int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(picked.at(i));
    if (text.ascii())
      out.add(text, at, at + 1);
    else
      out.add(text, offsets[at], offsets[at + 1]);
  }
  return out.finish(text.markup);
}

bool Runtime::contains(const Value& container, const Value& wanted) {
  switch (container.kind()) {
    case Kind::undefined: return false;
    case Kind::string:
      if (!wanted.is_string())
        throw Failure{std::string("'in <string>' requires string as left operand, not ") + type_name(wanted)};
      budget.work(container.text().bytes.size());
      return container.text().bytes.find(wanted.text().bytes) != std::string::npos;
    case Kind::dict: return container.dict().find(budget, wanted) != nullptr;
    case Kind::view:
      if (container.view().type == View::Type::keys)
        return container.view().dict.dict().find(budget, wanted) != nullptr;
      break;
    case Kind::range:
      if (wanted.is_integral()) {
        const Range& range = container.range();
        const int64_t n = range.length();
        if (n == 0) return false;
        const int64_t low = std::min(range.start, range.at(n - 1)), high = std::max(range.start, range.at(n - 1));
        return wanted.integer() >= low && wanted.integer() <= high &&
               (wanted.integer() - range.start) % range.step == 0;
      }
      break;
    case Kind::list:
    case Kind::tuple:
    case Kind::generator: break;
    default: throw Failure{std::string("argument of type '") + type_name(container) + "' is not iterable"};
  }
  const auto items = iterate(container);
  Value item;
  while (items->next(item))
    if (identical(item, wanted) || equal(item, wanted)) return true;
  return false;
}

Value Runtime::call(const Value& callee, Args& args) {
  budget.step();
  if (callee.is_undefined()) throw Failure{callee.undefined_message()};
  if (callee.is(Kind::function)) {
    const auto keep = callee.shared();  // the call may drop the last other reference
    return static_cast<const Function&>(*keep).body(*this, args);
  }
  if (callee.is(Kind::object)) {
    const auto keep = callee.shared();
    return static_cast<const HostObject&>(*keep).call(*this, args);
  }
  throw Failure{std::string("'") + type_name(callee) + "' object is not callable"};
}

Value Runtime::call_filter(const std::string& name, const Value& subject, Args& args) {
  budget.step();
  Filter filter = find_filter(name);
  if (!filter) filter = find_sequence_filter(name);
  if (!filter) throw Failure{"there is no filter '" + shorten(name) + "'"};
  return filter(*this, subject, args);
}

bool Runtime::call_test(const std::string& name, const Value& subject, Args& args) {
  budget.step();
  const Test test = find_test(name);
  if (!test) throw Failure{"there is no test '" + shorten(name) + "'"};
  return test(*this, subject, args);
}

bool known_filter(std::string_view name) { return find_filter(name) || find_sequence_filter(name); }
bool known_test(std::string_view name) { return find_test(name) != nullptr; }

Value Runtime::str(const Value& value) {
  if (value.is_string()) return value;
  TextBuilder out(budget);
  add_str(out, value);
  return out.finish();
}

Value Runtime::plain_str(const Value& value) {
  if (value.is_string() && !value.text().markup) return value;
  TextBuilder out(budget);
  add_str(out, value);
  return out.finish();
}

void Runtime::add_str(TextBuilder& out, const Value& value) {
  if (value.is_string())
    out.add(value.text());
  else if (!value.is_undefined())
    add_repr(out, value);
}

void Runtime::add_repr(TextBuilder& out, const Value& value, int level) {
  budget.step();
  nested(level);
  const auto add_items = [&](const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out.add(", ");
      add_repr(out, items[i], level + 1);
    }
  };
  switch (value.kind()) {
    case Kind::undefined: return out.add("Undefined");
    case Kind::none: return out.add("None");
    case Kind::boolean: return out.add(value.boolean() ? "True" : "False");
    case Kind::integer: return out.add(std::to_string(value.integer()));
    case Kind::real: return out.add(format_real(value.real()));
    case Kind::string:
      if (value.text().markup) out.add("Markup(");
      add_quoted(budget, out, value.text());
      if (value.text().markup) out.add(")");
      return;
    case Kind::list:
      out.add("[");
      add_items(value.list().items);
      return out.add("]");
    case Kind::tuple:
      out.add("(");
      add_items(value.list().items);
      return out.add(value.list().items.size() == 1 ? ",)" : ")");
    case Kind::dict: {
      out.add("{");
      bool first = true;
      for (const auto& [key, item] : value.dict().entries) {
        if (!first) out.add(", ");
        first = false;
        add_repr(out, key, level + 1);
        out.add(": ");
        add_repr(out, item, level + 1);
      }
      return out.add("}");
    }
    case Kind::view:
      out.add(type_name(value));
      out.add("([");
      add_items(value.view().items);
      return out.add("])");
    case Kind::range: {
      const Range& range = value.range();
      out.add("range(" + std::to_string(range.start) + ", " + std::to_string(range.stop));
      if (range.step != 1) out.add(", " + std::to_string(range.step));
      return out.add(")");
    }
    case Kind::function:
      if (value.function().is_macro) {
        const Value* name = value.function().macro_attributes.dict().find("name");
        if (name && name->is_string()) {
          out.add("<Macro ");
          add_repr(out, *name, level + 1);
          return out.add(">");
        }
        return out.add("<Macro anonymous>");
      }
      throw Failure{"printing a function is not supported"};
    case Kind::generator: throw Failure{"printing a generator is not supported: use |list or |join"};
    case Kind::object: return value.host().print(*this, out, level);
  }
}

}  // namespace signalbox::loaders::jinja
