using System.Text;

namespace FlashInfer.Generators.Model;

/// <summary>
/// Everything that the emitted file depends on, as values: equal models give equal bytes, and the compiler's symbols and trees can be
/// collected while the model lives on in the driver's cache.
/// </summary>
/// <param name="Namespace">The namespace as C# spells it; empty for the global one.</param>
/// <param name="ContainingTypes">The types around the class, outermost first.</param>
/// <param name="Type">The class that carries the attribute.</param>
/// <param name="IsStatic">
/// The class is static. That is an error (FI0002) and the class cannot implement an interface; it gets everything else.
/// </param>
/// <param name="Shape">The values of the attribute, legal or not; zero where the compiler could not bind one.</param>
/// <param name="Variant">The variant of attention that the class describes; null when it describes none.</param>
internal sealed record AttentionModel(
    string Namespace,
    EquatableArray<TypeDeclaration> ContainingTypes,
    TypeDeclaration Type,
    bool IsStatic,
    AttentionShape Shape,
    VariantModel? Variant
)
{
    /// <summary>The class's name with its namespace and containing types, as C# spells it.</summary>
    public string FullName
    {
        get
        {
            StringBuilder name = new();
            if (Namespace.Length > 0)
            {
                name.Append(Namespace).Append('.');
            }

            foreach (TypeDeclaration type in ContainingTypes)
            {
                name.Append(type.Name).Append(type.TypeParameters).Append('.');
            }

            return name.Append(Type.Name).Append(Type.TypeParameters).ToString();
        }
    }

    /// <summary>Whether the class becomes a configuration with units: legal values, on a class that can implement the interface.</summary>
    public bool HasUnits => !IsStatic && !FullName.Contains("<") && HasLegalUnits;

    /// <summary>Whether its values are legal, and its variant could be turned into CUDA.</summary>
    public bool HasLegalUnits => AttentionRules.IsLegal(Shape) && Variant is not { Cuda: "" };

    /// <summary>The class's name as the runtime spells it; of a class that <see cref="HasUnits"/>, so without type parameters.</summary>
    public string MetadataName
    {
        get
        {
            StringBuilder name = new(Namespace);
            name.Append(Namespace.Length > 0 ? "." : "");
            foreach (TypeDeclaration type in ContainingTypes)
            {
                name.Append(type.Name).Append('+');
            }

            return name.Append(Type.Name).Replace("@", "").ToString();
        }
    }

    /// <summary>The name of an emitted file: the full name without the characters that such names cannot have.</summary>
    /// <param name="member">The member that the file holds; null for the one with the class's own.</param>
    public string HintName(string? member = null) =>
        FullName.Replace("@", "").Replace('<', '{').Replace('>', '}') + (member is null ? ".g.cs" : $".{member}.g.cs");
}
