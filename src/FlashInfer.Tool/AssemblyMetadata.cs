using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;

namespace FlashInfer.Tool;

/// <summary>What is read of an assembly without loading it.</summary>
/// <param name="Configs">The names in its <see cref="AttentionConfigsAttribute"/>; empty without one.</param>
/// <param name="References">The assemblies that it references, name and version.</param>
internal sealed record AssemblyMetadata(IReadOnlyList<string> Configs, IReadOnlyList<(string Name, Version Version)> References)
{
    /// <summary>Reads an assembly; null when the file is none.</summary>
    public static AssemblyMetadata? Read(string path)
    {
        using FileStream file = File.OpenRead(path);
        using PEReader image = new(file);
        try
        {
            if (!image.HasMetadata)
            {
                return null;
            }

            MetadataReader reader = image.GetMetadataReader();
            return !reader.IsAssembly ? null : new AssemblyMetadata(ReadConfigs(reader), ReadReferences(reader));
        }
        catch (BadImageFormatException)
        {
            return null;
        }
    }

    private static List<(string Name, Version Version)> ReadReferences(MetadataReader reader)
    {
        List<(string, Version)> references = [];
        foreach (AssemblyReferenceHandle handle in reader.AssemblyReferences)
        {
            AssemblyReference reference = reader.GetAssemblyReference(handle);
            references.Add((reader.GetString(reference.Name), reference.Version));
        }

        return references;
    }

    private static List<string> ReadConfigs(MetadataReader reader)
    {
        List<string> configs = [];
        foreach (CustomAttributeHandle handle in reader.GetAssemblyDefinition().GetCustomAttributes())
        {
            CustomAttribute attribute = reader.GetCustomAttribute(handle);
            if (
                attribute.Constructor.Kind == HandleKind.MemberReference
                && reader.GetMemberReference((MemberReferenceHandle)attribute.Constructor).Parent
                    is { Kind: HandleKind.TypeReference } parent
                && reader.GetTypeReference((TypeReferenceHandle)parent) is var type
                && reader.StringComparer.Equals(type.Name, nameof(AttentionConfigsAttribute))
                && reader.StringComparer.Equals(type.Namespace, nameof(FlashInfer))
            )
            {
                // ECMA-335, II.23.3: a prolog of two bytes, then the one argument, an array of strings.
                BlobReader value = reader.GetBlobReader(attribute.Value);
                value.ReadUInt16();
                for (int count = value.ReadInt32(); count > 0; count--)
                {
                    configs.Add(value.ReadSerializedString()!);
                }
            }
        }

        return configs;
    }
}
