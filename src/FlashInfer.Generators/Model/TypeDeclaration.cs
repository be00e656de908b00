namespace FlashInfer.Generators.Model;

/// <summary>What must be repeated of a type to add a part to it.</summary>
/// <param name="Keyword"><c>class</c>, <c>record</c>, <c>struct</c>, <c>record struct</c> or <c>interface</c>.</param>
/// <param name="Name">The name as C# spells it, with <c>@</c> where it is a keyword.</param>
/// <param name="TypeParameters"><c>&lt;T, U&gt;</c>, or empty.</param>
internal sealed record TypeDeclaration(string Keyword, string Name, string TypeParameters);
