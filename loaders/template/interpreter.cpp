// Statements.
#include "loaders/template/interpreter.h"

#include <algorithm>
#include <ctime>

namespace signalbox::loaders::jinja {
namespace {

// Values of `iterable` that pass the loop's own `if`.
class TestedIterator : public Iterator {
 public:
  TestedIterator(Interpreter& in, const Stmt& stmt, ScopePtr scope, std::unique_ptr<Iterator> source)
      : in_(in), stmt_(stmt), scope_(std::move(scope)), source_(std::move(source)) {}
  bool next(Value& out) override {
    while (source_->next(out)) {
      const auto scope = std::make_shared<Scope>(scope_);
      in_.assign(*stmt_.target, *scope, out, scope);
      if (truth(in_.eval(*stmt_.test, scope))) return true;
    }
    return false;
  }

 private:
  Interpreter& in_;
  const Stmt& stmt_;
  ScopePtr scope_;
  std::unique_ptr<Iterator> source_;
};

class RestIterator : public Iterator {
 public:
  explicit RestIterator(std::vector<Value> items) : items_(std::move(items)) {}
  bool next(Value& out) override {
    if (at_ == items_.size()) return false;
    out = items_[at_++];
    return true;
  }

 private:
  std::vector<Value> items_;
  size_t at_ = 0;
};

// The variable `loop`. It reads one item ahead when asked for the last or next one.
class Loop : public HostObject {
 public:
  Loop(Interpreter& in, const Stmt& stmt, ScopePtr scope, Value iterable, int depth0)
      : in_(in),
        stmt_(stmt),
        scope_(stmt.recursive ? scope : nullptr),
        iterable_(std::move(iterable)),
        depth0_(depth0) {
    depth = nested(iterable_.depth() + 1);
    iterator_ = in_.iterate(iterable_);
    if (stmt.test)
      iterator_ = std::make_unique<TestedIterator>(in_, stmt, scope, std::move(iterator_));
    else
      length_ = in_.Runtime::length(iterable_);
  }

  bool advance(Value& out) {
    if (!peek()) return false;
    ++index0_;
    before_ = std::move(current_);
    current_ = std::move(after_);
    peeked_ = false;
    out = current_;
    return true;
  }

  const char* type_name() const override { return "LoopContext"; }
  bool callable() const override { return true; }
  bool truth() const override { return full_length() != 0; }
  std::optional<int64_t> length(Runtime&) const override { return full_length(); }

  void print(Runtime&, TextBuilder& out, int) const override {
    out.add("<LoopContext " + std::to_string(index0_ + 1) + "/" + std::to_string(full_length()) + ">");
  }

  Value call(Runtime& rt, Args& args) const override {
    const Bound bound("loop", args, {"iterable"}, 1);
    if (!stmt_.recursive) throw Failure{"the loop must have the 'recursive' marker to be called recursively"};
    (void)rt;
    return in_.call_loop(stmt_, scope_, *bound[0], depth0_ + 1);
  }

  std::optional<Value> attribute(Runtime& rt, std::string_view name) const override {
    if (name == "index") return Value::integer(index0_ + 1);
    if (name == "index0") return Value::integer(index0_);
    if (name == "revindex") return Value::integer(full_length() - index0_);
    if (name == "revindex0") return Value::integer(full_length() - index0_ - 1);
    if (name == "first") return Value::boolean(index0_ == 0);
    if (name == "last") return Value::boolean(!peek());
    if (name == "length") return Value::integer(full_length());
    if (name == "depth") return Value::integer(depth0_ + 1);
    if (name == "depth0") return Value::integer(depth0_);
    if (name == "previtem") return index0_ == 0 ? Value::undefined("there is no previous item") : before_;
    if (name == "nextitem") return peek() ? after_ : Value::undefined("there is no next item");
    auto self = std::static_pointer_cast<const Loop>(shared_this.lock());
    if (name == "cycle")
      return rt.function(
          "cycle",
          [self](Runtime&, Args& args) {
            if (!args.named.empty()) throw Failure{"cycle() takes no keyword arguments"};
            if (args.positional.empty()) throw Failure{"no items for cycling given"};
            return args.positional[static_cast<size_t>(self->index0_) % args.positional.size()];
          },
          depth);
    if (name == "changed")
      return rt.function(
          "changed",
          [self](Runtime& r, Args& args) {
            if (!args.named.empty()) throw Failure{"changed() takes no keyword arguments"};
            const Value value = r.tuple(args.positional);
            const bool changed = !self->compared_ || !r.equal(self->last_, value);
            self->compared_ = true;
            self->last_ = value;
            return Value::boolean(changed);
          },
          depth);
    return std::nullopt;
  }

  std::weak_ptr<const Object> shared_this;

 private:
  bool peek() const {
    if (!peeked_) {
      has_after_ = iterator_->next(after_);
      peeked_ = true;
    }
    return has_after_;
  }

  int64_t full_length() const {
    if (!length_) {
      std::vector<Value> rest;
      Value item;
      while (iterator_->next(item)) {
        in_.budget.step();
        rest.push_back(std::move(item));
        in_.budget.need(rest.size() * sizeof(Value));
      }
      length_ = static_cast<int64_t>(rest.size()) + index0_ + 1 + (peeked_ && has_after_ ? 1 : 0);
      iterator_ = std::make_unique<RestIterator>(std::move(rest));
    }
    return *length_;
  }

  Interpreter& in_;
  const Stmt& stmt_;
  ScopePtr scope_;
  Value iterable_;
  int depth0_;
  int64_t index0_ = -1;
  Value before_, current_;
  mutable std::unique_ptr<Iterator> iterator_;
  mutable std::optional<int64_t> length_;
  mutable Value after_;
  mutable bool peeked_ = false, has_after_ = false;
  mutable bool compared_ = false;
  mutable Value last_;
};

}  // namespace

struct Interpreter::Call {
  explicit Call(Interpreter& interpreter) : in(interpreter) {
    if (++in.calls_ > in.limits_.calls)
      throw Failure{"more than " + std::to_string(in.limits_.calls) + " calls inside each other"};
  }
  ~Call() { --in.calls_; }
  Interpreter& in;
};

Interpreter::~Interpreter() {
  // Macros hold the scope they were defined in, which holds them.
  for (const auto& scope : kept_) scope->variables.clear();
  root_values_.clear();
}

void Interpreter::set_global(std::string_view name, Value value) { globals_.emplace_back(name, std::move(value)); }

void Interpreter::guard_stack() const {
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  const auto used = here < stack_ ? stack_ - here : here - stack_;
  if (static_cast<uint64_t>(used) > limits_.stack) throw Failure{"the template recurses too deeply"};
}

void Interpreter::run(TextBuilder& out) {
  stack_ = static_cast<const char*>(__builtin_frame_address(0));
  root_ = std::make_shared<Scope>(nullptr);
  root_values_.resize(template_.names.size());
  root_set_.resize(template_.names.size());
  for (auto& [name, value] : globals_) {
    const auto at = std::find(template_.names.begin(), template_.names.end(), name);
    if (at == template_.names.end()) continue;
    root_values_[static_cast<size_t>(at - template_.names.begin())] = value;
    root_set_[static_cast<size_t>(at - template_.names.begin())] = 1;
  }
  out_ = &out;
  page_ = &out;
  exec(template_.body, root_);
}

Value Interpreter::lookup(int name, const Scope* scope) const {
  for (; scope != root_.get(); scope = scope->parent.get())
    for (const auto& [key, value] : scope->variables)
      if (key == name) return value;
  if (root_set_[static_cast<size_t>(name)]) return root_values_[static_cast<size_t>(name)];
  return Value::undefined("'" + shorten(template_.names[static_cast<size_t>(name)]) + "' is undefined");
}

void Interpreter::store(Scope& scope, int name, Value value) {
  if (&scope == root_.get()) {
    root_values_[static_cast<size_t>(name)] = std::move(value);
    root_set_[static_cast<size_t>(name)] = 1;
    return;
  }
  for (auto& [key, old] : scope.variables)
    if (key == name) {
      old = std::move(value);
      return;
    }
  scope.variables.emplace_back(name, std::move(value));
}

void Interpreter::keep(const ScopePtr& scope) {
  for (ScopePtr s = scope; s && s != root_ && !s->captured; s = s->parent) {
    s->captured = true;
    budget.hold(256);
    kept_.push_back(s);
  }
}

void Interpreter::assign(const Expr& target, Scope& scope, const Value& value, const ScopePtr& from) {
  switch (target.kind) {
    case ExprKind::name: return store(scope, target.name, value);
    case ExprKind::attribute_target: {
      const Value object = lookup(target.name, from.get());
      const auto* ns = object.is(Kind::object) ? dynamic_cast<const Namespace*>(object.pointer()) : nullptr;
      if (!ns) throw Failure{"cannot assign attribute on non-namespace object"};
      const_cast<Namespace*>(ns)->set(*this, target.text, value);  // the one mutable value
      return;
    }
    default: {
      if (value.is(Kind::none) || value.is_number())
        throw Failure{std::string("cannot unpack non-iterable ") + jinja::type_name(value) + " object"};
      const auto items = iterate(value);
      Value item;
      for (size_t i = 0; i < target.parts.size(); ++i) {
        if (!items->next(item))
          throw Failure{"not enough values to unpack (expected " + std::to_string(target.parts.size()) + ", got " +
                        std::to_string(i) + ")"};
        assign(*target.parts[i], scope, item, from);
      }
      if (items->next(item))
        throw Failure{"too many values to unpack (expected " + std::to_string(target.parts.size()) + ")"};
    }
  }
}

Interpreter::Flow Interpreter::exec(const Body& body, const ScopePtr& scope) {
  for (const auto& stmt : body) {
    const Flow flow = exec(*stmt, scope);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::exec(const Stmt& stmt, const ScopePtr& scope) {
  budget.step();
  guard_stack();
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::output: output(stmt, scope); return Flow::normal;
    case StmtKind::for_loop: {
      const Value iterable = eval(*stmt.value, scope);
      if (stmt.recursive)
        add_str(*out_, call_loop(stmt, scope, iterable, 0));
      else {
        bool any = false;
        loop_body(stmt, scope, iterable, 0, any);
        if (!any && !stmt.else_body.empty()) return exec(stmt.else_body, std::make_shared<Scope>(scope));
      }
      return Flow::normal;
    }
    case StmtKind::condition:
      for (const Branch& branch : stmt.branches)
        if (!branch.test || truth(eval(*branch.test, scope))) return exec(branch.body, scope);
      return Flow::normal;
    case StmtKind::set: {
      if (stmt.target->kind == ExprKind::attribute_target) {  // refused before the value is computed
        const Value object = lookup(stmt.target->name, scope.get());
        if (!object.is(Kind::object) || !dynamic_cast<const Namespace*>(object.pointer()))
          throw Failure{"cannot assign attribute on non-namespace object"};
      }
      const Value value = eval(*stmt.value, scope);
      assign(*stmt.target, *scope, value, scope);
      return Flow::normal;
    }
    case StmtKind::set_block: return set_block(stmt, scope);
    case StmtKind::macro: store(*scope, stmt.name, make_macro(stmt, scope)); return Flow::normal;
    case StmtKind::call_block: call_block(stmt, scope); return Flow::normal;
    case StmtKind::filter_block: return filter_block(stmt, scope);
    case StmtKind::with: return with(stmt, scope);
    case StmtKind::scope: return exec(stmt.body, std::make_shared<Scope>(scope));
    case StmtKind::block:  // its own function in jinja: sees the template's variables, or with `scoped` all of them
      return exec(stmt.body, std::make_shared<Scope>(stmt.recursive ? scope : root_));
    case StmtKind::break_loop: return Flow::break_loop;
    case StmtKind::continue_loop: return Flow::continue_loop;
  }
  return Flow::normal;
}

void Interpreter::output(const Stmt& stmt, const ScopePtr& scope) {
  for (const auto& expr : stmt.exprs) {
    if (expr->kind == ExprKind::constant)
      add_str(*out_, expr->constant);
    else
      add_str(*out_, eval(*expr, scope));
    if (page_->size() > limits_.output)
      throw Failure{"the template prints more than " + std::to_string(limits_.output) + " bytes"};
  }
}

Value Interpreter::capture(const Body& body, const ScopePtr& scope, Flow& flow) {
  TextBuilder buffer(budget);
  TextBuilder* outer = out_;
  out_ = &buffer;
  flow = exec(body, scope);
  out_ = outer;
  return buffer.finish();
}

Interpreter::Flow Interpreter::set_block(const Stmt& stmt, const ScopePtr& scope) {
  const auto inner = std::make_shared<Scope>(scope);
  Flow flow;
  Value text = capture(stmt.body, inner, flow);
  if (flow != Flow::normal) return flow;
  if (stmt.value) {
    block_text_ = std::move(text);
    text = eval(*stmt.value, inner);
  }
  assign(*stmt.target, *scope, text, scope);
  return Flow::normal;
}

Interpreter::Flow Interpreter::filter_block(const Stmt& stmt, const ScopePtr& scope) {
  const auto inner = std::make_shared<Scope>(scope);
  Flow flow;
  block_text_ = capture(stmt.body, inner, flow);
  if (flow != Flow::normal) return flow;
  add_result(eval(*stmt.value, inner));
  return Flow::normal;
}

// What a block puts on the page as it is: jinja joins strings there and fails on anything else.
void Interpreter::add_result(const Value& value) {
  if (!value.is_string())
    throw Failure{std::string("expected a string as the block's result, found ") + type_name(value)};
  out_->add(value.text());
}

void Interpreter::call_block(const Stmt& stmt, const ScopePtr& scope) {
  if (!stmt.value) {  // {% generation %}: the body, in a scope of its own
    Flow flow;
    add_str(*out_, capture(stmt.body, std::make_shared<Scope>(scope), flow));
    return;
  }
  const Value caller = make_macro(stmt, scope);
  add_result(eval_call(*stmt.value, scope, &caller));
}

Interpreter::Flow Interpreter::with(const Stmt& stmt, const ScopePtr& scope) {
  const auto inner = std::make_shared<Scope>(scope);
  for (size_t i = 0; i < stmt.targets.size(); ++i) assign(*stmt.targets[i], *inner, eval(*stmt.exprs[i], scope), scope);
  return exec(stmt.body, inner);
}

Interpreter::Flow Interpreter::loop_body(const Stmt& stmt, const ScopePtr& scope, const Value& iterable, int depth,
                                         bool& any) {
  const auto at = std::find(template_.names.begin(), template_.names.end(), "loop");
  const int loop_name = at == template_.names.end() ? -1 : static_cast<int>(at - template_.names.begin());
  if (stmt.recursive) keep(scope);
  const auto loop = std::make_shared<Loop>(*this, stmt, scope, iterable, depth);
  loop->shared_this = loop;
  auto inner = std::make_shared<Scope>(scope);
  Value item;
  while (loop->advance(item)) {
    budget.step();
    if (inner.use_count() > 1)
      inner = std::make_shared<Scope>(scope);
    else
      inner->variables.clear();
    if (loop_name >= 0) store(*inner, loop_name, Value::object(Kind::object, loop));
    assign(*stmt.target, *inner, item, inner);
    const Flow flow = exec(stmt.body, inner);
    if (flow == Flow::break_loop) break;
    any |= flow == Flow::normal;  // in jinja, `else` also runs when every iteration ended with break or continue
    line_ = stmt.line;
  }
  return Flow::normal;
}

Value Interpreter::call_loop(const Stmt& stmt, const ScopePtr& scope, const Value& iterable, int depth) {
  const Call call(*this);
  TextBuilder buffer(budget);
  TextBuilder* outer = out_;
  out_ = &buffer;
  bool any = false;
  loop_body(stmt, scope, iterable, depth, any);
  if (!any && !stmt.else_body.empty()) exec(stmt.else_body, std::make_shared<Scope>(scope));
  out_ = outer;
  return buffer.finish();
}

Value Interpreter::make_macro(const Stmt& stmt, const ScopePtr& scope) {
  keep(scope);
  auto macro = std::make_shared<Function>(
      stmt.macro.name, [this, &stmt, scope](Runtime&, Args& args) { return call_macro(stmt, scope, args); });
  macro->is_macro = true;
  std::vector<Value> names;
  bool explicit_caller = false;
  for (int name : stmt.macro.arguments) {
    names.push_back(string(template_.names[static_cast<size_t>(name)]));
    explicit_caller |= template_.names[static_cast<size_t>(name)] == "caller";
  }
  macro->macro_attributes = dict({
      {string("name"), stmt.macro.name.empty() ? Value::none() : string(stmt.macro.name)},
      {string("arguments"), tuple(std::move(names))},
      {string("catch_kwargs"), Value::boolean(stmt.macro.wants_kwargs)},
      {string("catch_varargs"), Value::boolean(stmt.macro.wants_varargs)},
      {string("caller"), Value::boolean(stmt.macro.wants_caller)},
      {string("explicit_caller"), Value::boolean(explicit_caller)},
  });
  return Value::object(Kind::function, std::move(macro));
}

Value Interpreter::call_macro(const Stmt& stmt, const ScopePtr& scope, Args& args) {
  const Call call(*this);
  const MacroInfo& macro = stmt.macro;
  const auto name_of = [&](int name) -> const std::string& { return template_.names[static_cast<size_t>(name)]; };
  const auto id_of = [&](const char* name) {
    return static_cast<int>(std::find(template_.names.begin(), template_.names.end(), name) - template_.names.begin());
  };
  const auto inner = std::make_shared<Scope>(scope);
  const size_t n = macro.arguments.size(), given = std::min(args.positional.size(), n);
  std::vector<char> missing(n, 0);
  bool found_caller = false;
  for (size_t i = 0; i < n; ++i) {
    const std::string& name = name_of(macro.arguments[i]);
    found_caller |= name == "caller";
    if (i < given) {
      store(*inner, macro.arguments[i], args.positional[i]);
      continue;
    }
    const auto named =
        std::find_if(args.named.begin(), args.named.end(), [&](const auto& a) { return a.first == name; });
    if (named == args.named.end()) {
      missing[i] = 1;
      continue;
    }
    store(*inner, macro.arguments[i], named->second);
    args.named.erase(named);
  }
  if (macro.wants_caller && !found_caller) {
    Value caller = Value::undefined("No caller defined");
    const auto named =
        std::find_if(args.named.begin(), args.named.end(), [](const auto& a) { return a.first == "caller"; });
    if (named != args.named.end()) {
      if (!named->second.is_none()) caller = named->second;
      args.named.erase(named);
    }
    store(*inner, id_of("caller"), caller);
  }
  if (macro.wants_kwargs) {
    std::vector<Dict::Entry> entries;
    for (const auto& [name, value] : args.named) entries.emplace_back(string(name), value);
    store(*inner, id_of("kwargs"), dict(std::move(entries)));
  } else if (!args.named.empty()) {
    throw Failure{"macro '" + macro.name + "' takes no keyword argument '" + shorten(args.named.front().first) + "'"};
  }
  if (macro.wants_varargs) {
    store(*inner, id_of("varargs"),
          tuple({args.positional.begin() + static_cast<ptrdiff_t>(given), args.positional.end()}));
  } else if (args.positional.size() > n) {
    throw Failure{"macro '" + macro.name + "' takes not more than " + std::to_string(n) + " argument(s)"};
  }
  // Defaults see the arguments before them.
  for (size_t i = 0; i < n; ++i) {
    if (!missing[i]) continue;
    const size_t required = n - macro.defaults.size();
    store(*inner, macro.arguments[i],
          i >= required ? eval(*macro.defaults[i - required], inner)
                        : Value::undefined("parameter '" + name_of(macro.arguments[i]) + "' was not provided"));
  }
  Flow flow;
  return capture(stmt.body, inner, flow);
}

std::string Interpreter::now(const std::string& format) {
  std::tm tm{};
  const std::time_t clock = std::time(nullptr);
  gmtime_r(&clock, &tm);
  if (!date_.empty()) {
    tm = {};
    const char* rest = strptime(date_.c_str(), "%Y-%m-%d", &tm);
    if (rest && (*rest == 'T' || *rest == ' ')) rest = strptime(rest + 1, "%H:%M:%S", &tm);
    if (!rest || (*rest && std::string_view(rest) != "Z"))
      throw Failure{"the date '" + shorten(date_) + "' is not ISO 8601"};
  }
  if (format.empty()) return "";
  if (format.size() > 1000) throw Failure{"strftime_now: the format is too long"};
  std::string known;  // what Python replaces itself: no fraction of a second, no time zone
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      known += format[i];
      continue;
    }
    ++i;
    if (format[i] == 'f')
      known += "000000";
    else if (format[i] != 'z' && format[i] != 'Z')
      known += std::string("%") + format[i];
  }
  known += ' ';  // so that an empty result differs from a failure
  std::string out(known.size() * 64 + 256, '\0');
  const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
  const size_t n = strftime_l(out.data(), out.size(), known.c_str(), &tm, c_locale);
  freelocale(c_locale);
  if (n == 0) throw Failure{"strftime_now: the result is too long"};
  out.resize(n - 1);
  return out;
}

}  // namespace signalbox::loaders::jinja
