# The IAM policies of deploy/iam with one's own values. No provider is needed, so that they can be rendered, read and
# tested anywhere.

terraform {
  required_version = ">= 1.6"
}

locals {
  iam = "${path.module}/../../iam"

  documents = {
    for name in ["server", "server-trust", "target", "target-trust"] : name => replace(replace(replace(replace(replace(
      file("${local.iam}/${name}.json"),
      "arn:aws:iam::111122223333:role/portcullis-server", var.server_role_arn),
      "arn:aws:iam::111122223333:oidc-provider", "arn:aws:iam::${split(":", var.server_role_arn)[4]}:oidc-provider"),
      "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE", var.oidc_issuer),
      "123456789012", var.account_id),
    "\"arn:aws:", "\"arn:${var.partition}:")
  }

  vpcs = [for id in var.vpc_ids : "arn:${var.partition}:ec2:*:${var.account_id}:vpc/${id}"]
}

module "target" {
  source = "./fill"
  text   = local.documents["target"]
  conditions = {
    "ec2:Region"                         = var.regions
    "ec2:Vpc"                            = local.vpcs
    "aws:ResourceTag/portcullis-managed" = var.managed_tag_values
    "aws:RequestTag/portcullis-managed"  = var.managed_tag_values
  }
  resources = {
    CreateGroupsInVpcs = length(var.vpc_ids) > 0 ? local.vpcs : ["arn:${var.partition}:ec2:*:${var.account_id}:vpc/*"]
  }
  omit = concat(
    var.create_and_delete ? [] : ["CreateGroups", "CreateGroupsInVpcs", "DeleteGroups"],
    var.explain_denials ? [] : ["ExplainDenials"],
  )
}

module "target_trust" {
  source     = "./fill"
  text       = local.documents["target-trust"]
  conditions = { "sts:ExternalId" = var.external_id == "" ? [] : [var.external_id] }
  omit       = var.session_per_principal ? [] : ["NameTheCaller", "DescribeTheCaller"]
}

module "server" {
  source    = "./fill"
  text      = local.documents["server"]
  resources = { BecomeTheTargets = var.target_role_arns }
}

module "server_trust" {
  source     = "./fill"
  text       = local.documents["server-trust"]
  conditions = { "${var.oidc_issuer}:sub" = [var.service_account] }
}
