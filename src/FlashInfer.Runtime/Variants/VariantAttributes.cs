namespace FlashInfer;

/// <summary>
/// Marks the nested <c>readonly ref struct</c> whose properties a variant's methods read: scalars (<see cref="int"/>, <see cref="uint"/>,
/// <see cref="float"/>, <see cref="bool"/>) and <see cref="ReadOnlySpan{T}"/> of those or of <see cref="byte"/>. Given with every plan, and copied
/// by it.
/// </summary>
[AttributeUsage(AttributeTargets.Struct)]
public sealed class VariantArgumentsAttribute : Attribute;

/// <summary>
/// Marks the static method that replaces a logit: <c>float M(float logit, in LogitsContext at [, in Arguments a])</c>. The logit is
/// smScale * q . k with all scales of the keys, in natural units, and so is the result.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class LogitsTransformAttribute : Attribute;

/// <summary>
/// Marks the static method that says whether a query token sees a key: <c>bool M(in LogitsContext at [, in Arguments a])</c>. Asked beside
/// causality, not instead of it.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class LogitsMaskAttribute : Attribute;

/// <summary>
/// Marks the static method that names the first key a query token may see: <c>int M(in LogitsContext at [, in Arguments a])</c>, where
/// <see cref="LogitsContext.KvPosition"/> and the heads are 0. What it returns must not fall from a query token of a sequence to the next. Keys
/// before it are hidden, and whole tiles of them are never read: that is what makes a window fast.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class FirstKeyAttribute : Attribute;

/// <summary>
/// Marks the static method that gives each query head an attention sink, a logit without a value that joins its softmax:
/// <c>float M(int head [, in Arguments a])</c>.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class AttentionSinkAttribute : Attribute;

/// <summary>
/// Marks the static method that replaces an element of the query: <c>float M(float element, in ElementContext at [, in Arguments a])</c>. The
/// result is rounded to the query's type, as if it had come so.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class QueryTransformAttribute : Attribute;

/// <summary>
/// Marks the static method that replaces an element of the output:
/// <c>float M(float element, float lse2, in ElementContext at [, in Arguments a])</c>. The element is that of the whole row, before it is
/// rounded; lse2 is the row's base-2 log-sum-exp, its sink included, -infinity where the query token sees no key, and stays as it is.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class OutputTransformAttribute : Attribute;
